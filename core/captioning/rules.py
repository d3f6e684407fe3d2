"""Rules on the words of captions, as pure functions on text."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..config.caption_rules import Pattern, RulesConfig, parse_pattern, parse_replacement

# A letter that a whole word can't go on with; Chinese and Japanese write words without gaps.
_LETTER = "[^\\W\u2e80-\uffff]"


class Changed(NamedTuple):
    """A caption after some rules, and which rules found something in it."""

    text: str
    used: frozenset[str]


def split_tags(caption: str) -> list[str]:
    """The parts between commas, trimmed, empty ones left out."""
    return [part for part in (part.strip() for part in caption.split(",")) if part]


def join_tags(tags: Iterable[str]) -> str:
    """The tags as one caption."""
    return ", ".join(tags)


def tag_key(tag: str) -> str:
    """The same for equal tags: whatever case, spaces or underscores, escaped brackets or not."""
    return " ".join(tag.replace("_", " ").replace("\\", "").casefold().split())


def tag_counts(captions: Iterable[str]) -> dict[str, int]:
    """In how many captions each tag is, the most frequent first, equal ones by name."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(set(split_tags(caption)))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def merge(old: str, new: str, place: Literal["append", "prepend"], *, words: bool) -> str:
    """`old` as it was, and of `new` what it does not hold yet, behind or before it."""
    old, new = old.strip(" ,"), new.strip(" ,")
    if words:
        fresh = "" if new.casefold() in old.casefold() else new
    else:
        known = {tag_key(tag) for tag in split_tags(old)}
        fresh = join_tags(tag for tag in split_tags(new) if tag_key(tag) not in known)
    parts = [old, fresh] if place == "append" else [fresh, old]
    return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Rules:
    """Compiled rules. `change` is for the words that come, `arrange` for the caption they make."""

    config: RulesConfig
    words: bool
    removals: tuple[tuple[str, Pattern], ...]
    replacements: tuple[tuple[str, Pattern, str], ...]

    @classmethod
    def of(cls, config: RulesConfig, match: Literal["tags", "words"]) -> "Rules":
        """Compile the rules of checked settings; a plain rule may list tags between commas."""
        removals: list[tuple[str, Pattern]] = []
        for rule in config.remove:
            pattern = parse_pattern(rule, "rules.remove")
            if pattern.regex is None and match == "tags":
                removals += [(rule, Pattern(tag)) for tag in split_tags(rule)]
            else:
                removals.append((rule, pattern))
        replacements = [
            (rule, *parse_replacement(rule, "rules.replace")) for rule in config.replace
        ]
        return cls(config, match == "words", tuple(removals), tuple(replacements))

    def apply(self, caption: str) -> Changed:
        """All rules on one caption."""
        changed = self.change(caption)
        return Changed(self.arrange(changed.text), changed.used)

    def change(self, caption: str) -> Changed:
        """Remove and replace."""
        used: set[str] = set()
        for rule, pattern in self.removals:
            caption = self._replaced(caption, rule, (pattern, None), used)
        for rule, pattern, new in self.replacements:
            caption = self._replaced(caption, rule, (pattern, new), used)
        return Changed(caption, frozenset(used))

    def _replaced(
        self, caption: str, rule: str, change: tuple[Pattern, str | None], used: set[str]
    ) -> str:
        pattern, new = change
        if self.words:
            after, count = _replace_words(caption, pattern, new or "")
        else:
            after, count = _replace_tags(caption, pattern, new)
        if count:
            used.add(rule)
        return after

    def arrange(self, caption: str) -> str:
        """Order the tags, each once, and put prefix, suffix and trigger in their places.

        What was put there by an earlier use of the same rules is not put there again.
        """
        text = self._bare(caption)
        if not self.words:
            text = self._ordered(text)
        text = _suffixed(_prefixed(text, self.config.prefix), self.config.suffix)
        text = self._triggered(text)
        return text if self.words else self._once(text)

    def _bare(self, caption: str) -> str:
        """The caption without this trigger, prefix and suffix."""
        ours = (self.config.trigger, self.config.prefix, self.config.suffix)
        trigger, prefix, suffix = (part.strip(" ,") for part in ours)
        text = caption.strip()
        if trigger and not self.words:
            keys = {tag_key(tag) for tag in split_tags(trigger)}
            tags = split_tags(text)
            others = [tag for tag in tags if tag_key(tag) not in keys]
            text = text if len(others) == len(tags) else join_tags(others)
        elif trigger and text.casefold().startswith(f"{trigger},".casefold()):
            text = text[len(trigger) :].lstrip(" ,")
        if prefix and _begins(text, prefix):
            text = text[len(prefix) :].lstrip(" ,")
        if suffix and _begins(text[::-1], suffix[::-1]):
            text = text[: -len(suffix)].rstrip(" ,")
        return text

    def _ordered(self, text: str) -> str:
        tags = split_tags(text)
        wanted = [tag_key(tag) for entry in self.config.first for tag in split_tags(entry)]
        ordered = sorted(tags, key=tag_key) if self.config.sort else list(tags)
        if wanted:
            place = {key: number for number, key in reversed(list(enumerate(wanted)))}
            ordered.sort(key=lambda tag: place.get(tag_key(tag), len(wanted)))
        return text if ordered == tags else join_tags(ordered)

    def _once(self, text: str) -> str:
        if not self.config.unique:
            return text
        tags = split_tags(text)
        seen: dict[str, str] = {}
        for tag in tags:
            seen.setdefault(tag_key(tag), tag)
        return text if len(seen) == len(tags) else join_tags(seen.values())

    def _triggered(self, text: str) -> str:
        trigger = self.config.trigger.strip(" ,")
        if not trigger or (self.words and _word_pattern(trigger).search(text)):
            return text
        return f"{trigger}, {text}" if text else trigger


def _begins(text: str, start: str) -> bool:
    """Whether `text` begins with `start`, and not amid a longer word."""
    if text[: len(start)].casefold() != start.casefold():
        return False
    return re.match(_LETTER, text[len(start) :]) is None


def _prefixed(text: str, prefix: str) -> str:
    if not prefix.strip(" ,"):
        return text
    if not text:
        return prefix.strip(" ,")
    if prefix.endswith(","):
        return f"{prefix} {text}"
    return prefix + text if prefix[-1].isspace() else f"{prefix}, {text}"


def _suffixed(text: str, suffix: str) -> str:
    suffix = suffix.strip(" ,")
    return f"{text}, {suffix}" if text and suffix else text or suffix


def _replace_tags(caption: str, pattern: Pattern, new: str | None) -> tuple[str, int]:
    """Each tag that the pattern fits becomes `new`; None or nothing takes the tag out."""
    key = tag_key(pattern.words)
    tags: list[str] = []
    count = 0
    for tag in split_tags(caption):
        found = pattern.regex.search(tag) if pattern.regex else tag_key(tag) == key
        if not found:
            tags.append(tag)
            continue
        count += 1
        if new is not None:
            tags += split_tags(pattern.regex.sub(new, tag) if pattern.regex else new)
    return (join_tags(tags), count) if count else (caption, 0)


def _replace_words(caption: str, pattern: Pattern, new: str) -> tuple[str, int]:
    """Whatever the pattern fits becomes `new`; gaps and commas left over are tidied."""
    if pattern.regex is not None:
        after, count = pattern.regex.subn(new, caption)
    else:
        after, count = _word_pattern(pattern.words).subn(lambda _: new, caption)
    if not count:
        return caption, 0
    after = re.sub(r"\s+", " ", after)
    after = re.sub(r"\s*,(?:\s*,)+", ",", after)
    return re.sub(r"\s+,", ",", after).strip(" ,"), count


def _word_pattern(words: str) -> re.Pattern[str]:
    gaps = r"\s+".join(re.escape(word) for word in words.split())
    return re.compile(f"(?<!{_LETTER}){gaps}(?!{_LETTER})", re.IGNORECASE)
