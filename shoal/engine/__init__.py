"""An index root searched in this process: no server, no Ray. `shoal.open`, and `shoal serve --local` over HTTP."""
