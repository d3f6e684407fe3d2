"""Token ids; the golden ones are those of open_clip's SimpleTokenizer."""

import pytest
import torch

from lora_loop.core.models.tokenizer import END, ROOM, START, ClipTokenizer, read_vocabulary

GOLDEN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "A  Photo\tof\n a CAT ": [320, 1125, 539, 320, 2368],
    "1girl, solo, (masterpiece:1.2), looking_at_viewer": [
        *(272, 1611, 267, 5797, 267, 263, 12066, 281, 272, 269, 273, 2361, 1312, 318, 536),
        *(318, 15061),
    ],
    "Don't stop! It's 3,000.50 €": [
        *(847, 713, 1691, 256, 585, 568, 274, 267, 271, 271, 271, 269, 276, 271, 6309),
    ],
    "Ünïcödé façade": [6522, 77, 35689, 66, 7255, 67, 4166, 778, 10067, 1928],
    "a\u0301 e\u0301": [22229, 4166],  # letter and accent apart mean the same
    "猫が座っている 写真": [
        *(163, 234, 104, 4813, 234, 161, 118, 100, 4813, 96, 48029, 33523, 3909, 489, 44653),
        *(33440, 509),
    ],
    "사진 고양이": [31061, 105, 38890, 36216, 254, 31625, 239, 34746],
    "🐱😀👩\u200d👩\u200d👧": [35710, 12832, 26304, 26304, 964, 356],
    "العربية нет": [12973, 18843, 10948, 16378, 12046, 20915, 22705, 22176, 141, 480],
    "zürich straße İstanbul": [89, 6522, 4021, 1894, 127, 253, 324, 328, 16384, 11231],
    "...!!!???": [3002, 11194, 3824],
    "": [],
    " \n\t": [],
}


@pytest.mark.parametrize("caption", GOLDEN)
def test_ids_are_clips(caption):
    ids = GOLDEN[caption]
    row = ClipTokenizer().encode([caption])
    assert row.tolist() == [[START, *ids, *[END] * (76 - len(ids))]]
    assert ClipTokenizer().count(caption) == len(ids)


def test_a_batch_is_its_rows():
    captions = ["a cat", "", "a dog on the moon"]
    tokenizer = ClipTokenizer()
    batch = tokenizer.encode(captions)
    assert batch.shape == (3, 77)
    assert batch.dtype == torch.int64
    assert torch.equal(batch, torch.cat([tokenizer.encode([caption]) for caption in captions]))
    assert tokenizer.encode([]).shape == (0, 77)


def test_75_tokens_fit_and_the_76th_is_cut_and_counted():
    tokenizer = ClipTokenizer()
    cat = 2368
    assert tokenizer.encode(["cat " * 75])[0].tolist() == [START, *[cat] * 75, END]
    assert torch.equal(tokenizer.encode(["cat " * 76]), tokenizer.encode(["cat " * 75]))
    assert tokenizer.encode(["cat " * 74])[0].tolist() == [START, *[cat] * 74, END, END]
    assert tokenizer.count("cat " * 76) == 76 == ROOM + 1


def test_half_a_surrogate_pair_is_no_crash():
    assert ClipTokenizer().encode(["a \ud83d cat"]).shape == (1, 77)


def test_vocabulary_has_clips_size_and_ends():
    vocabulary, merges = read_vocabulary()
    assert len(vocabulary) == 49408
    assert (vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (START, END)
    assert vocabulary["!"] == 0
    assert vocabulary["cat</w>"] == 2368
    assert len(merges) == 48894
    assert merges[0] == ("i", "n")


def test_transformers_own_tokenizer_agrees():
    transformers = pytest.importorskip("transformers", minversion="5")
    vocabulary, merges = read_vocabulary()
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    captions = [
        *GOLDEN,
        "<|endoftext|> in the text",
        "\u2018curly\u2019 quotes\u2014dash",
        "ﬁne ½ ①",
        "﷽ \x00y",
    ]
    captions.append("a very long caption, with many words " * 20)
    rows = theirs(captions, padding="max_length", truncation=True, max_length=77)["input_ids"]
    assert ClipTokenizer().encode(captions).tolist() == rows
