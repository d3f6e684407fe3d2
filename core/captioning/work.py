"""Caption a list of pictures: in batches, journalled, to be stopped and gone on with."""

import hashlib
import json
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..config.caption import CaptionConfig
from ..config.mapping import to_mapping
from ..errors import DatasetError, TrainerError
from ..events import Finding, OnEvent, PhaseProgress, PhaseStarted, StopFlag
from .changes import CaptionChange, CaptionReport, Captions, FileTools, PictureCaption
from .journal import Journal
from .protocol import Captioner
from .rules import Rules, merge
from .writer import Writer

PHASE = "caption"
# Settings that don't change what a caption will be.
_ASIDE = ("model", "download", "recursive", "batch_size", "dry_run")


@dataclass(frozen=True, slots=True)
class _Ready:
    """A picture as the captioner wants it, or what is wrong with its file."""

    item: PictureCaption
    prepared: np.ndarray | None
    problem: str = ""


Batches = Generator[list[_Ready], None, None]


class CaptionWork:
    """One captioning of a folder; `run` once."""

    def __init__(
        self,
        captions: Captions,
        config: CaptionConfig,
        captioner: Captioner | None,
        tools: FileTools,
    ) -> None:
        """captioner: None for rules alone."""
        self._captions = captions
        self._folder = captions.folder
        self._config = config
        self._captioner = captioner
        self._tools = tools
        self._rules = Rules.of(config.rules, config.match)
        self._journal = Journal(self._folder, tools.write)
        settings = settings_digest(config, captioner)
        self._writer = Writer(self._folder, self._journal, tools, settings)
        self._used: set[str] = set()
        self._findings: list[Finding] = list(captions.findings)

    def run(self, on_event: OnEvent, stop: StopFlag) -> CaptionReport:
        """Caption what is to be captioned. What is done when it stops or fails stays done."""
        todo, report = self._sorted_out()
        on_event(PhaseStarted(name=PHASE, total=len(todo)))
        done = 0
        changes: list[CaptionChange] = []
        with closing(self._batches(todo, stop)) as batches:
            for batch in batches:
                new, unreadable = self._batch(batch)
                changes += new
                done += len(batch)
                report = replace(report, unreadable=report.unreadable + unreadable)
                on_event(PhaseProgress(name=PHASE, done=done, total=len(todo)))
        unchanged = done - len(changes) - report.unreadable
        if done == len(todo):
            self._note_unused(len(todo))
        return replace(
            report,
            changes=tuple(changes),
            unchanged=unchanged,
            waiting=len(todo) - done,
            findings=tuple(self._findings),
        )

    def _sorted_out(self) -> tuple[list[PictureCaption], CaptionReport]:
        """The pictures that need work, and a report that counts the others."""
        latest = self._journal.latest()
        todo: list[PictureCaption] = []
        kept: list[str] = []
        done_before = 0
        keeps = self._captioner is not None and self._config.existing == "keep"
        for item in self._captions.items:
            if keeps and item.text:
                kept.append(item.text)
            elif self._writer.was_written(
                item.picture, item.file, latest.get(self._writer.name(item.picture))
            ):
                done_before += 1
            else:
                todo.append(item)
        self._note_trigger(kept)
        report = CaptionReport(
            folder=self._folder,
            pictures=len(self._captions.items),
            kept=len(kept),
            done_before=done_before,
            dry_run=self._config.dry_run,
        )
        return todo, report

    def _batches(self, todo: Sequence[PictureCaption], stop: StopFlag) -> Batches:
        """Batches ready for the captioner; the next one is read while this one is captioned."""
        size = self._config.batch_size
        parts = [todo[start : start + size] for start in range(0, len(todo), size)]
        with ThreadPoolExecutor(1, "lora-loop-pictures") as reader:
            waiting: Future[list[_Ready]] | None = None
            for number, part in enumerate(parts):
                if stop():
                    break
                ready = (waiting or reader.submit(self._read, part)).result()
                more = number + 1 < len(parts)
                waiting = reader.submit(self._read, parts[number + 1]) if more else None
                yield ready
            if waiting is not None:
                waiting.cancel()

    def _read(self, items: Sequence[PictureCaption]) -> list[_Ready]:
        captioner = self._captioner
        if captioner is None:
            return [_Ready(item, None) for item in items]
        return [self._read_one(item, captioner) for item in items]

    def _read_one(self, item: PictureCaption, captioner: Captioner) -> _Ready:
        try:
            return _Ready(item, captioner.prepare(self._tools.decode(item.picture)))
        except DatasetError as error:
            return _Ready(item, None, str(error))

    def _batch(self, batch: list[_Ready]) -> tuple[list[CaptionChange], int]:
        """Caption and write one batch: what has changed, and how many files were unreadable."""
        good = [ready for ready in batch if not ready.problem]
        for ready in batch:
            if ready.problem:
                self._findings.append(
                    Finding(level="warning", text=ready.problem, path=ready.item.picture)
                )
        changes = []
        for item, words in zip((ready.item for ready in good), self._words(good), strict=True):
            after = self._finished(item, words)
            if after and after != (item.text or ""):
                change = CaptionChange(
                    picture=item.picture, file=item.file, before=item.text, after=after
                )
                changes.append(change)
        if not self._config.dry_run:
            self._writer.write(changes)
        return changes, len(batch) - len(good)

    def _words(self, ready: list[_Ready]) -> list[str]:
        if self._captioner is None:
            return [one.item.text or "" for one in ready]
        prepared = [one.prepared for one in ready if one.prepared is not None]
        if not prepared:
            return []
        try:
            return self._captioner.caption(prepared)
        except torch.cuda.OutOfMemoryError as error:
            raise TrainerError(
                f"{self._captioner.name} ran out of GPU memory with caption.batch_size "
                f"{self._config.batch_size}: set a smaller one, or use the CPU; the captions so "
                "far are written, and a new run goes on from there"
            ) from error

    def _finished(self, item: PictureCaption, words: str) -> str:
        """The whole caption: rules on the new words, what is there, and all put in order."""
        text, used = self._rules.change(words)
        self._used |= used
        existing = self._config.existing
        if self._captioner is not None and item.text and existing in ("append", "prepend"):
            text = merge(item.text, text, existing, words=self._rules.words)
        return self._rules.arrange(text)

    def _note_trigger(self, kept: list[str]) -> None:
        """Say so where captions that are kept lack the trigger that the others get."""
        trigger = self._config.rules.trigger.strip()
        lacking = sum(trigger.casefold() not in text.casefold() for text in kept)
        if lacking:
            text = (
                f'{lacking} captions that are kept lack the trigger "{trigger}": use the rules '
                "alone to put it into them"
            )
            self._findings.append(Finding(level="warning", text=text))

    def _note_unused(self, todo: int) -> None:
        """Say which rules found nothing: a mistyped tag is otherwise not noticed."""
        rules = (*self._config.rules.remove, *self._config.rules.replace)
        for rule in rules if todo else ():
            if rule not in self._used:
                text = f'the rule "{rule}" found nothing in {todo} captions'
                self._findings.append(Finding(level="info", text=text))


def settings_digest(config: CaptionConfig, captioner: Captioner | None) -> str:
    """A digest of everything but the picture that decides a caption."""
    values = {name: value for name, value in to_mapping(config).items() if name not in _ASIDE}
    identity = captioner.identity if captioner is not None else ""
    words = json.dumps([values, identity], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]
