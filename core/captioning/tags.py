"""A tagger's list of tags, and which of them a picture gets."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config.caption_models import TaggerConfig
from ..errors import CheckpointError
from .rules import join_tags, split_tags, tag_key

RATING, CHARACTER = "9", "4"  # Danbooru's numbers of categories; all others count as general
# A tag with no two letters in a row is a face, such as ^_^ or o_o, whose underscore is drawn.
_LETTERS = re.compile(r"[^\W_]{2}")


@dataclass(frozen=True, slots=True)
class TagList:
    """Names as the model has them and their categories, in the order of its outputs."""

    names: tuple[str, ...]
    categories: tuple[str, ...]


def read_tags(path: Path) -> TagList:
    """Read `selected_tags.csv`: columns name and category, in any place. Raises CheckpointError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        names = tuple(row["name"] for row in rows)
        categories = tuple(row["category"].strip() for row in rows)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path} can't be read as a tagger's list of tags ({error}): it needs the columns name "
            "and category; download the model's selected_tags.csv again"
        ) from error
    if not names:
        raise CheckpointError(f"{path} lists no tags; download the model's selected_tags.csv again")
    return TagList(names, categories)


def choose_tags(tags: TagList, scores: Sequence[float] | np.ndarray, config: TaggerConfig) -> str:
    """The caption of one picture. scores: the model's, in [0, 1], one for each of `tags`.

    Tags stand by falling confidence.
    """
    undesired = {tag_key(tag) for entry in config.undesired for tag in split_tags(entry)}
    general: list[int] = []
    characters: list[int] = []
    ratings: list[int] = []
    for place in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist():
        category, score = tags.categories[place], scores[place]
        if category == RATING:
            ratings.append(place)
        elif tag_key(tags.names[place]) in undesired:
            continue
        elif category == CHARACTER and config.character_tags != "none":
            if score >= config.character_threshold:
                characters.append(place)
        elif category != CHARACTER and score >= config.general_threshold:
            general.append(place)
    if config.character_tags == "first":
        chosen = characters + general
    else:
        chosen = sorted(characters + general, key=lambda place: -scores[place])
    if config.rating_tag == "first":
        chosen = ratings[:1] + chosen
    elif config.rating_tag == "last":
        chosen = chosen + ratings[:1]
    return join_tags(written(tags.names[place], config) for place in chosen)


def written(name: str, config: TaggerConfig) -> str:
    """A tag as it is to stand in a caption; a comma in it would make it two."""
    name = name.replace(",", "")
    if config.spaces and _LETTERS.search(name):
        name = name.replace("_", " ")
    if config.escape_brackets:
        name = name.replace("(", r"\(").replace(")", r"\)")
    return name
