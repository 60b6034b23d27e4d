"""Pinecone's data plane over gRPC: what `serve.dialects.pinecone_api` answers, carried by a server of our own."""

import os

os.environ.setdefault(
    "GRPC_VERBOSITY", "NONE"
)  # before grpcio is imported: clients could fill the log with their mistakes
