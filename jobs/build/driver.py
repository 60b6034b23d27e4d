"""The course of a build: which stage follows which, what is done already, and what becomes of it.

Long because the stages of a build are read from top to bottom.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from jobs.build import tasks
from jobs.build.embedding import Busy, count
from jobs.build.workplaces import InProcess, OnRay, Workplace
from jobs.progress import Reporter
from jobs.report import Losses, Summary
from jobs.session import Cluster, embedding_workers
from shoal import indexes
from shoal.errors import Conflict, CorruptIndex, NotFound, ShoalError
from shoal.evaluation.gate import Answers, Verdict, active_version, judge, read_gate, to_json
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Manifest, VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.indexing.auto_tokens import follow_current
from shoal.indexing.base import choose_base, damaged, open_base
from shoal.indexing.commits import ShardCommit, Tally, committed_units, read_shard_commit, read_unit_commit
from shoal.indexing.last_writes import LastWrites
from shoal.indexing.lexical import describe_lexical
from shoal.indexing.losses import BuildReport, older_rejections, read_report
from shoal.indexing.over_log import over_log
from shoal.indexing.plan import Plan, make_plan
from shoal.indexing.publish import (
    field_types,
    first_rejected,
    make_manifest,
    require_passages,
    reuse_of,
    write_corpus_terms,
    write_reports,
)
from shoal.indexing.recall import Tuning
from shoal.indexing.spool import spool
from shoal.indexing.tokens import codec_digest
from shoal.indexing.verify import count_problems
from shoal.lexical.analyzer import Analyzer
from shoal.metadata import MAX_FIELDS
from shoal.settings import BuildSettings
from shoal.sources.listing import describe_left_out

_READERS = 16
"""Files of commits that are read side by side."""
_EXAMPLES = 3
"""Problems that a message spells out."""


class Builder:
    """One build on a cluster. Every stage may be repeated after a crash and finds what was committed."""

    def __init__(self, settings: BuildSettings, cluster: Cluster, reporter: Reporter) -> None:
        self.workplace: Workplace = InProcess() if cluster.in_process else OnRay()
        self.workers = embedding_workers(settings, cluster)
        self.settings = settings.model_copy(update={"threads": self.workers.cpus})
        self.storage = Storage(settings.index)
        self._reporter = reporter
        self._started = time.monotonic()
        self._busy = Busy()
        self._written = LastWrites()
        self._gpus = cluster.gpus
        self._threads = settings.threads  # of an index, whose bytes may depend on them
        self._gate = read_gate(settings)
        self._limit = 2 * max(1, math.floor(cluster.cpus / settings.threads))

    def plan(self) -> Plan:
        """Decide what is to be done; reads the listing and samples of the input, and writes nothing."""
        indexes.check_gpus(self.settings.index_kind, self._gpus)
        if lack := self.workplace.shortage(self.workers):
            self._reporter.say(lack)
        with self._reporter.stage("plan"):
            settings, remark = follow_current(self.settings, self.storage)
            described: tuple[Fingerprint, int] = self.workplace.run(
                tasks.describe_encoder, settings, self.workplace.one_process, **self.workers.options
            )
            encoder, width = described
            if self.settings.lexical:
                Analyzer(self.settings)
            plan = make_plan(settings, encoder, width)
            indexes.check(plan.index.index_kind, encoder.dim, plan.index.index_search)
        if remark or plan.stores_tokens:
            self._reporter.say(remark or "token vectors are stored for reranking (--late-interaction none: without)")
        if unreadable := plan.unreadable:
            self._reporter.say(
                f"{len(unreadable):,} of {len(plan.files):,} files cannot be read and are left out, such as "
                f"{unreadable[0].name}, which {unreadable[0].unreadable}"
            )
        if left_out := sorted({column for file in plan.files for column in file.left_out}):
            self._reporter.say(f"columns that cannot be metadata are left out: {', '.join(left_out)}")
        if plan.left_out:
            self._reporter.say(f"left out {describe_left_out(plan.left_out)}")
        for remark in plan.remarks:
            self._reporter.say(remark)
        return plan

    def build(self) -> Summary:
        """Build, verify and publish; or only activate, when the same plan has been published already."""
        plan = self.over_log(self.plan())
        published = versions.find_plan(self.storage, plan.content_hash)
        if published and not self.settings.rebuild:
            self._reporter.say(f"{published} was built from the same plan: nothing to do (--rebuild builds it again)")
            if remark := older_rejections(self.storage, published):
                self._reporter.say(remark)
            return self._finish(plan.content_hash, published)
        plan = self.with_base(plan)
        version, facts = self._publish(plan, published)
        summary = self._finish(plan.content_hash, version, verified=bool(facts))
        if not facts:
            return summary
        seconds = {**self._reporter.seconds, "total": round(time.monotonic() - self._started, 3)}
        return replace(summary, **facts, passages_per_s=round(summary.passages / seconds["total"], 1), seconds=seconds)

    def with_base(self, plan: Plan) -> Plan:
        """The plan as one that copies from the current version what has not changed, where that can be done."""
        if self.settings.reembed:
            return plan
        based, remark = choose_base(plan, self.storage)
        if remark is not None:
            self._reporter.say(remark)
        return based

    def over_log(self, plan: Plan) -> Plan:
        """The plan as one that takes over what was written to the index while it was served."""
        plan, self._written, remark = over_log(plan, self.storage, self.settings.drop_live, self.settings.reembed)
        if remark is not None:
            self._reporter.say(remark)
        return plan

    def _publish(self, plan: Plan, published: str | None) -> tuple[str, dict[str, Any]]:
        """Publish what the plan says, unless another run of the same build is faster.

        Args:
            published: The version of this plan that was there before.

        Returns:
            The new one and, if this run has built it, what the summary says about that.
        """
        staged: Plan | None = None
        while True:
            try:
                staged = staged or self._staged(plan)
                return staged.version, self._stages(staged)
            except Exception:
                # Two runs of one build do the same work side by side. The faster one publishes and clears the staging
                # area; one that started at the same moment may have put its plan in the place of ours.
                other = versions.find_plan(self.storage, plan.content_hash)
                if other is not None and other != published:
                    self._reporter.say(f"another run of this build has published {other}")
                    return other, {}
                now = self._staging(plan.hash)
                if now is None or staged is None or now.version == staged.version:
                    raise
                self._reporter.say(f"another run of this build is making {now.version}: going on with that one")
                staged = now

    def _staging(self, plan_hash: str) -> Plan | None:
        """The plan that is in staging, if there is one."""
        try:
            return Plan.from_bytes(self.storage.read(layout.plan(plan_hash)))
        except NotFound:
            return None

    def _staged(self, plan: Plan) -> Plan:
        """The plan as an earlier run of this build left it in staging, or else this one, with its final units.

        The input is read where it lies now: it may have been moved since.
        """
        path = layout.plan(plan.hash)
        if others := [name for name in self.storage.list(layout.STAGING) if name != plan.hash]:
            self._reporter.say(
                f"{self.storage.place(layout.STAGING)} holds {len(others)} builds of other plans; "
                "`shoal index prune` removes those that have not gone on for days"
            )
        if not self.storage.exists(path):
            pending = plan.pending
            if pending:
                self._reporter.say(f"{len(pending):,} compressed or CSV files are read once, to be cut into units")
                with self._reporter.stage("spool", len(pending), "files") as stage:
                    calls = ((self.settings.index, plan, index) for index in pending)
                    for _ in self.workplace.spread(tasks.spool, calls, self._limit, num_cpus=1):
                        stage.advance(0)
            final = spool(plan, self.storage).to_bytes()
            if plan.carried is not None:
                self._written.stage(self.storage, plan.hash)
            if not self.storage.exists(path):  # spooling takes long: another run may have been faster
                self.storage.write(path, final)
        data = self.storage.read(path)
        staged = Plan.from_bytes(data).moved(plan)
        if staged.to_bytes() != data:
            self.storage.write(path, staged.to_bytes())
        return staged

    def _stages(self, plan: Plan) -> dict[str, Any]:
        """Build the version of a plan and publish it. Returns what the summary says of it, or {} if it was."""
        if self.storage.exists(layout.manifest(plan.version)):
            self._reporter.say(f"{plan.version} was published by a run that ended before it was made current")
            return {}
        tally, reused = self._embed(plan)
        require_passages(plan, tally, self.storage)
        commits, index = self._index(plan, tally)
        self._verify(plan, tally)
        with self._reporter.stage("publish"):
            examples = first_rejected(plan, tally, self.storage, _EXAMPLES)
            files = write_reports(plan, tally, self.storage) + write_corpus_terms(plan, self.storage)
            lexical = describe_lexical(plan, self.storage)
            versions.publish(self.storage, make_manifest(plan, tally, commits, index, files, lexical))
        return {
            "built": True,
            "units": len(plan.units),
            "units_reused": reused,
            "workers": self.workers.count,
            "busy": self._busy.shares(),
            "rejected_examples": examples,
        }

    def _embed(self, plan: Plan) -> tuple[Tally, int]:
        """Embed what is not committed yet. Returns the counts of all units, and how many were there already."""
        tally = Tally(len(plan.units), plan.shards)
        if plan.stores_tokens:
            with self._reporter.stage("tokens"):
                self.workplace.run(
                    tasks.learn_codec,
                    self.settings,
                    self.settings.index,
                    plan.hash,
                    self.workplace.one_process,
                    **self.workers.options,
                )
        codec = codec_digest(plan, self.storage)
        self._check_base(plan)
        with self._reporter.stage("embed", len(plan.units)) as stage:
            with ThreadPoolExecutor(_READERS) as pool:
                units = iter(committed_units(self.storage, plan.hash))
                # In portions: a pool reads everything that it is given at once.
                while portion := list(islice(units, 16 * _READERS)):
                    for commit in pool.map(partial(read_unit_commit, self.storage, plan.hash), portion):
                        if commit.codec == codec:
                            tally.add_commit(commit)
            reused = int(tally.done.sum())
            if reused:
                self._reporter.say(
                    f"continuing: {reused:,} of {len(plan.units):,} units were embedded by an earlier run"
                )
            stage.start_at(reused)
            missing = np.flatnonzero(~tally.done).tolist()
            if missing:
                stage.announce(
                    f"{len(missing):,} of {len(plan.units):,} units are to do, some "
                    f"{plan.estimated_passages:,} passages in all"
                )
                embedded = self.workplace.embed(self.settings, plan, self.storage, missing, self.workers)
                for unit in count(embedded, tally, self._busy):
                    stage.advance(int(tally.passages[unit]))
        return tally, reused

    def _check_base(self, plan: Plan) -> None:
        """Read what is copied from once, before damage is copied too. Raises CorruptIndex, and Conflict if gone."""
        base = open_base(plan, self.storage)
        if base is None or len(committed_units(self.storage, plan.hash)) == len(plan.units):
            return
        problems: list[str] = []
        with self._reporter.stage("base", base.shards, "shards") as stage:
            calls = ((self.settings.index, plan.hash, shard) for shard in range(base.shards))
            for found in self.workplace.spread(tasks.check_base, calls, self._limit, num_cpus=1):
                problems += found
                stage.advance()
        if problems:
            raise damaged(base.version, problems)

    def _index(self, plan: Plan, tally: Tally) -> tuple[list[ShardCommit], VectorIndexInfo]:
        """Train if the kind needs it, index every shard, and tune the search over all of them."""
        root, threads = self.settings.index, self._threads
        resources = {"num_cpus": threads, "num_gpus": tasks.index_gpus(plan.index.index_kind, self._gpus)}
        if indexes.index_kind(plan.index.index_kind).TRAINED:
            with self._reporter.stage("train"):
                self.workplace.run(tasks.train, root, plan.hash, tally.passages, threads, **resources)
        fields = field_types(plan, tally)
        if tally.fields.kinds is None:
            self._reporter.say(
                f"more than {MAX_FIELDS} metadata fields: filters know only those that --metadata-types declares"
            )
        if plan.lexical.lexical:
            with self._reporter.stage("terms", plan.shards, "shards") as stage:
                calls = ((root, plan.hash, shard) for shard in range(plan.shards))
                for shard in self.workplace.spread(tasks.count_terms, calls, self._limit, num_cpus=1):
                    stage.advance(int(tally.shard_rows[shard]))
                self.workplace.run(tasks.merge_terms, root, plan.hash, num_cpus=1)
        with self._reporter.stage("index", plan.shards, "shards") as stage:
            queries = self.workplace.start(
                tasks.sample_queries, root, plan.hash, tally.passages, self.settings.verify_queries, num_cpus=1
            )
            indexing = (
                (root, plan.hash, plan.version, shard, queries, threads, fields) for shard in range(plan.shards)
            )
            for passages in self.workplace.spread(tasks.index, indexing, self._limit, **resources):
                stage.advance(passages)
            commits = []
            tuning = Tuning()
            codec = codec_digest(plan, self.storage)
            for shard in range(plan.shards):
                commit = read_shard_commit(self.storage, plan.hash, shard)
                if commit.version != plan.version or commit.codec != codec:
                    raise Conflict(f"another run of this build has indexed shard {shard} for {commit.version}")
                tally.add_shard(commit)
                tuning.add(commit.trials)
                commits.append(commit.without_sample())
        index = tuning.describe(plan.index)
        if index.curve and index.recall_at_10 is not None and index.recall_at_10 < plan.index.recall_target:
            tried = f"--index-search {index.search}" if plan.index.index_search else f"{index.kind} at its best"
            self._reporter.say(
                f"{tried} finds {index.recall_at_10:.4f} of the nearest passages, not the "
                f"{plan.index.recall_target:g} of --recall-target"
            )
        return commits, index

    def _verify(self, plan: Plan, tally: Tally) -> None:
        """Read everything that was stored once more. Raises CorruptIndex; then nothing is published."""
        problems = []
        with self._reporter.stage("verify", plan.shards, "shards") as stage:
            calls = ((self.settings.index, plan.hash, plan.version, shard) for shard in range(plan.shards))
            for shard, found in self.workplace.spread(tasks.verify, calls, self._limit, num_cpus=1):
                problems += found
                stage.advance(int(tally.shard_passages[shard]))
        problems = [*count_problems(plan, tally, self.storage), *problems]
        if problems:
            raise CorruptIndex(
                f"nothing is published: {'; '.join(problems[:_EXAMPLES])} ({len(problems)} problems); run the same "
                "command again to index these shards anew"
            )

    def _finish(self, content_hash: str, version: str, verified: bool = False) -> Summary:
        """Make a published version current if that is wanted, and clear the staging area of its build."""
        manifest = versions.read_manifest(self.storage, version)
        report = read_report(self.storage, manifest)
        losses = self._count_losses(manifest, report)
        # A version that lost too much is not worth the queries of the gate.
        verdict = None if losses.refused else self._judge(manifest)
        wanted = self.settings.activate and not losses.refused and (verdict is None or verdict.passed)
        if wanted and active_version(self.storage) != version:  # activating reads all of it
            try:
                versions.activate(self.storage, version, verified=verified)
            except ShoalError as error:
                message = f"{version} is published, but not current: {error.message}; run the same command again"
                raise type(error)(message, retry_after_s=error.retry_after_s) from error
        self._note_refusal(version, losses, verdict)
        self._clear_staging(content_hash, version)
        return Summary(
            index=self.storage.uri,
            version=version,
            plan=content_hash,
            built=False,
            activated=active_version(self.storage) == version,
            passages=manifest.counts.passages,
            duplicates=manifest.counts.duplicates,
            rejected=manifest.counts.rejected,
            shards=len(manifest.shards),
            bytes=sum(file.bytes for file in manifest.all_files()),
            recall_at_10=manifest.index.recall_at_10,
            gate=None if verdict is None else to_json(verdict),
            losses=losses,
            left_out=report.left_out,
            files_left_out=report.files_left_out,
            full=report.full,
            remarks=report.remarks,
            **reuse_of(manifest),
        )

    def _note_refusal(self, version: str, losses: Losses, verdict: Verdict | None) -> None:
        """Write down why a version is not made current, or that nothing speaks against it any more.

        Where that cannot be done, the version is published all the same.
        """
        reasons = [*verdict.reasons] if verdict is not None else []
        if losses.refused:
            reasons.append(f"{losses.share:.1%} of the records were lost, more than --max-lost {losses.allowed:.1%}")
        try:
            if reasons:
                versions.refuse(self.storage, version, reasons)
            else:
                self.storage.delete(layout.refusal(version))
        except ShoalError as error:
            self._reporter.say(f"`shoal index list` will not show rightly whether {version} was refused: {error}")

    def _count_losses(self, manifest: Manifest, report: BuildReport) -> Losses:
        """What the build of a version lost, and whether that is too much for it to be made current."""
        share = report.share(manifest.counts)
        refused = share > self.settings.max_lost and active_version(self.storage) != manifest.version
        return Losses(round(share, 4), self.settings.max_lost, refused, report.lost)

    def _clear_staging(self, content_hash: str, version: str) -> None:
        """Remove what is staged for a version that is published.

        A rebuild that was interrupted keeps its own plan, for the next --rebuild. Builds of one content from several
        bases have folders of their own, whose names begin alike.
        """
        try:
            for name in self.storage.list(layout.STAGING):
                staged = self._staging(name) if name[:8] == content_hash[:8] else None
                if staged is not None and staged.version == version:
                    versions.discard_staging(self.storage, name)
            if self._staging(content_hash) is None:
                versions.discard_staging(self.storage, content_hash)
        except ShoalError as error:
            self._reporter.say(
                f"staging is not cleared: {error.message}; `shoal index prune` removes what is idle for days"
            )

    def _judge(self, manifest: Manifest) -> Verdict | None:
        """Hold a published version against the gate; None without one, or if it is current already."""
        gate = self._gate
        if gate is None or active_version(self.storage) == manifest.version:
            return None

        def ask() -> Answers:
            answers: Answers = self.workplace.run(
                tasks.ask_version,
                self.settings,
                manifest.version,
                gate.dataset,
                gate.sample,
                gate.blend,
                **self.workers.options,
            )
            return answers

        with self._reporter.stage("gate"):
            return judge(gate, manifest, ask)
