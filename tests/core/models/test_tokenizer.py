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


def test_chunks_have_their_own_ends_and_padding():
    tokenizer = ClipTokenizer()
    cat, dog = 2368, 1929
    tokens = tokenizer.encode_chunks(["cat " * 75 + "dog dog", "cat", ""], pad=0, chunks=3)
    empty = [START, END, *[0] * 75]
    assert tokens.weights is None
    assert tokens.ids.dtype == torch.int64
    assert tokens.ids.tolist() == [
        [[START, *[cat] * 75, END], [START, dog, dog, END, *[0] * 73], empty],
        [[START, cat, END, *[0] * 74], empty, empty],
        [empty, empty, empty],
    ]
    padded = tokenizer.encode_chunks(["cat"], chunks=2).ids.tolist()
    assert padded == [[[START, cat, *[END] * 75], [START, *[END] * 76]]]
    assert tokenizer.encode_chunks([], pad=0, chunks=2, weighted=True).ids.shape == (0, 2, 77)


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_a_full_chunk_ends_with_its_end_and_the_rest_is_cut(chunks):
    room = 75 * chunks
    tokenizer = ClipTokenizer()
    for pad in (0, END):
        full = tokenizer.encode_chunks(["cat " * room], pad=pad, chunks=chunks).ids
        assert (full[0, :, -1] == END).all()
        assert full[0, :, 1:-1].tolist() == [[2368] * 75] * chunks
        over = tokenizer.encode_chunks(["cat " * room + "dog"], pad=pad, chunks=chunks).ids
        assert torch.equal(full, over)


def test_a_token_that_has_the_number_of_the_padding_is_no_padding():
    tokenizer = ClipTokenizer()
    exclamation, tilde = 0, 349  # two marks that have no merge
    assert tokenizer.encode(["!~"])[0, 1:3].tolist() == [exclamation, tilde]
    ids = tokenizer.encode_chunks(["cat " * 74 + "!~"], pad=0, chunks=2).ids[0]
    assert ids[0, -3:].tolist() == [2368, exclamation, END]
    assert ids[1, :3].tolist() == [START, tilde, END]
    ids = tokenizer.encode_chunks(["cat " * 75 + "!~"], pad=0, chunks=2).ids[0]
    assert ids[1, :4].tolist() == [START, exclamation, tilde, END]


def test_weights_lie_at_their_tokens():
    caption = "(cat:1.5) dog, [" + "cat " * 74 + "] \\(dog\\)"
    tokens = ClipTokenizer().encode_chunks([caption, "dog"], pad=0, chunks=2, weighted=True)
    cat, dog, comma = 2368, 1929, 267
    assert tokens.ids[0, 0].tolist() == [START, cat, dog, comma, *[cat] * 72, END]
    assert tokens.ids[0, 1, :7].tolist() == [START, cat, cat, 263, dog, 264, END]
    assert tokens.ids[1, 0].tolist() == [START, dog, END, *[0] * 74]
    assert tokens.weights is not None
    assert tokens.weights.dtype == torch.float32
    down = 1 / 1.1
    first = torch.tensor([1, 1.5, 1, 1, *[down] * 72, 1])
    second = torch.tensor([1, down, down, *[1.0] * 74])
    torch.testing.assert_close(tokens.weights[0], torch.stack([first, second]))
    assert (tokens.weights[1] == 1).all()


def test_a_bracket_ends_a_word():
    tokenizer = ClipTokenizer()
    apart = tokenizer.encode_chunks(["sun(flower:1.2)"], weighted=True).ids[:, 0]
    assert torch.equal(apart, tokenizer.encode(["sun flower"]))
    assert not torch.equal(apart, tokenizer.encode(["sunflower"]))


def test_without_markup_weights_change_no_id():
    captions = [caption for caption in GOLDEN if "(" not in caption]
    tokens = ClipTokenizer().encode_chunks(captions, weighted=True)
    assert torch.equal(tokens.ids[:, 0], ClipTokenizer().encode(captions))
    assert tokens.weights is not None
    assert (tokens.weights == 1).all()


def test_markup_is_not_counted_where_it_weighs():
    tokenizer = ClipTokenizer()
    assert tokenizer.count("(cat:1.2), [dog]", weighted=True) == 3
    assert tokenizer.count("(cat:1.2), [dog]") == 10  # "),", as any run of marks, may be one token
    assert tokenizer.count(r"\(cat\)", weighted=True) == 3
    assert tokenizer.count("(cat \ud83d:1.2", weighted=True) == tokenizer.count("cat ?: 1.2") == 5


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
