"""Windows of text: shapes, seeds, sources, and too little of it."""

import gzip
import json
import random

import pytest
import torch
from tiny import ALPHABET, letters_of

import wanda_nb as wn
from wanda_nb.inputs.text import begin_with_bos


class Letters:
    """A tokenizer of one token a character."""

    eos_token_id = 0

    def __call__(self, texts, verbose=True):
        return {"input_ids": [[ord(character) for character in text] for text in texts]}


LONG = [ALPHABET, ALPHABET.upper(), "0123456789" * 3]


def read(tokens):
    return ["".join(map(chr, row)) for row in tokens.tolist()]


def test_calibration_windows_are_random_pieces_of_random_documents():
    windows = wn.calibration_tokens(Letters(), LONG, samples=3, length=8, seed=0)
    assert windows.dtype == torch.int64 and windows.shape == (3, 8)
    homes = [[number for number, text in enumerate(LONG) if piece in text] for piece in read(windows)]
    assert sorted(homes) == [[0], [1], [2]]  # one window a document


def test_the_seed_decides():
    draws = [wn.calibration_tokens(Letters(), LONG, samples=3, length=8, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_short_documents_are_joined():
    windows = wn.calibration_tokens(Letters(), ["abc", "def", "ghi"], samples=2, length=5, seed=0)
    joined = "".join(read(windows))
    assert len(joined) == 10 and joined.count("\0") == 2
    assert sorted(piece for piece in joined.split("\0") if len(piece) == 3) == sorted(joined.split("\0")[:2])


def test_evaluation_windows_follow_one_another_and_drop_the_tail():
    windows = wn.evaluation_tokens(Letters(), ["abc", "defgh"], length=4)
    assert read(windows) == ["abc\n", "\ndef"]
    assert read(wn.evaluation_tokens(Letters(), ["abc", "defgh"], length=4, windows=1)) == ["abc\n"]


def test_evaluation_windows_spread_over_the_whole_text():
    text = ["".join(map(str, range(10)))]  # ten windows of one token
    for windows, expected in ((1, "0"), (2, "05"), (3, "036"), (4, "0257"), (9, "012345678"), (10, "0123456789")):
        assert "".join(read(wn.evaluation_tokens(Letters(), text, 1, windows, spread=True))) == expected
    assert read(wn.evaluation_tokens(Letters(), text, 1, spread=True)) == list("0123456789")
    with pytest.raises(ValueError, match="gives 10 windows"):
        wn.evaluation_tokens(Letters(), text, 1, 11, spread=True)


def test_too_little_text_says_how_much_there_is():
    with pytest.raises(ValueError, match=r"2 strings gives 1 windows of 4 tokens \(6 tokens in all\), 2 requested"):
        wn.evaluation_tokens(Letters(), ["ab", "cd"], length=4, windows=2)
    with pytest.raises(ValueError, match=r"gives 0 windows of 9 tokens"):
        wn.evaluation_tokens(Letters(), ["ab", "cd"], length=9)
    with pytest.raises(ValueError, match=r"Too little text.*7 requested. Ask for fewer or shorter"):
        wn.calibration_tokens(Letters(), LONG, samples=7, length=20)
    with pytest.raises(ValueError, match="Too little text"):
        wn.calibration_tokens(Letters(), [], samples=1, length=2)


@pytest.mark.parametrize("bad", [{"samples": 0}, {"length": 0}, {"length": 2.5}, {"samples": True}])
def test_counts_must_be_counts(bad):
    with pytest.raises(ValueError, match="expected a whole number of at least 1"):
        wn.calibration_tokens(Letters(), LONG, **{"samples": 1, "length": 2, **bad})


def test_files_of_your_own(tmp_path):
    (tmp_path / "text.txt").write_text("äbc", encoding="utf-8")
    assert wn.documents(tmp_path / "text.txt") == ["äbc"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in LONG))
    assert wn.documents(str(tmp_path / "rows.jsonl")) == LONG


def test_an_unknown_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No text source 'c5': expected one of c4, wikipedia, hub:c4"):
        wn.documents("c5")
    with pytest.raises(ValueError, match="No text source"):
        wn.documents(tmp_path / "missing.txt")


def test_the_pinned_texts():
    c4, wikipedia = wn.documents("c4"), wn.documents("wikipedia")
    assert len(c4) == len(set(c4)) == 570
    assert not any("MacRumors Forums Got a tip" in text for text in c4)  # the menus are gone
    assert len(wikipedia) > 700 and all(len(text) > 190 and "<doc" not in text for text in wikipedia)
    assert not set(c4) & set(wikipedia)


def test_the_hub_out_of_reach_says_what_else_there_is(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    for source in ("hub:c4", "hub:wikitext2"):
        with pytest.raises(OSError, match=r"could not be read from the hub.*use source='c4'"):
            wn.documents(source)


@pytest.fixture
def shard(tmp_path):
    """A stand-in for a C4 shard: gzipped lines of JSON, most of them too short."""
    draw = random.Random(5)
    rows = [{"text": "".join(draw.choices(ALPHABET, k=draw.randint(1, 60))), "url": str(n)} for n in range(40)]
    path = tmp_path / "c4-train.json.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path, [row["text"] for row in rows]


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_published_draw_is_the_published_codes(seed, shard):
    """Its loop as it stands, with the global generator that it seeds."""
    path, texts = shard
    random.seed(seed)
    expected = []
    for _ in range(9):
        while True:
            text = texts[random.randint(0, len(texts) - 1)]
            if len(text) > 40:
                break
        start = random.randint(0, len(text) - 40 - 1)
        expected.append(text[start : start + 40])
    assert read(wn.published_windows(Letters(), path, samples=9, length=40, seed=seed)) == expected


def test_the_published_draw_reads_only_what_it_draws(shard):
    path, texts = shard
    seen = []

    class Watched(Letters):
        def __call__(self, asked, verbose=True):
            seen.extend(asked)
            return super().__call__(asked, verbose)

    wn.published_windows(Watched(), path, samples=1, length=40, seed=0)
    assert len(seen) < len(texts) / 2


def test_the_published_draw_ends_where_no_document_is_long_enough(shard):
    with pytest.raises(ValueError, match=r"Too little text: .* longer than 99 tokens.*shorter windows"):
        wn.published_windows(Letters(), shard[0], samples=2, length=99)


def test_gzipped_text_is_text(shard):
    assert wn.documents(shard[0]) == shard[1]


def test_no_start_comes_too_late_for_a_whole_window():
    """Of 7 tokens and a window of 4, as published: starts 0, 1 and 2."""
    windows = {read(wn.calibration_tokens(Letters(), ["abcdefg"], samples=1, length=4, seed=s))[0] for s in range(40)}
    assert windows == {"abcd", "bcde", "cdef"}
    shortest = wn.calibration_tokens(Letters(), ["abcde", "vwxyz"], samples=2, length=4, seed=3)
    assert set(read(shortest)) == {"abcd", "vwxy"}  # a document one token longer than the window has one start
    assert read(wn.calibration_tokens(Letters(), ["abcd"], samples=1, length=4)) == ["abcd"]  # none, so it is joined


def test_training_windows_hold_all_documents_in_the_seeds_order():
    texts = [letter * 3 for letter in ALPHABET[:6]]
    one, again, other = (wn.training_tokens(Letters(), texts, length=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert sorted(read(one)) == sorted(read(other)) == [text + "\0" for text in texts]
    assert torch.equal(wn.training_tokens(Letters(), texts, windows=2, length=4, seed=1), other[:2])


# ---- BOS: Gemma wants it at the start of every window, LLaMA's windows are the published ones


def spelt(tokens):
    return ["".join("_^.?"[token] if token < 4 else (ALPHABET + "\n")[token - 4] for token in row) for row in tokens]


TEXTS = [ALPHABET, ALPHABET[::-1], "aabbccddeeffgghhiijjkkllmm"]
SHORT = ["abc", "def", "ghi"]


def draws(tokenizer, path, **how):
    """{function: windows of 6 tokens}, as text: ^ is BOS, a full stop EOS."""
    drawn = {
        "calibration": wn.calibration_tokens(tokenizer, TEXTS, samples=3, length=6, **how),
        "joined": wn.calibration_tokens(tokenizer, SHORT, samples=2, length=6, **how),
        "published": wn.published_windows(tokenizer, path, samples=5, length=6, **how),
        "training": wn.training_tokens(tokenizer, TEXTS, length=6, **how),
        "evaluation": wn.evaluation_tokens(tokenizer, TEXTS, length=6, **how),
    }
    assert all(windows.dtype == torch.int64 and windows.shape[1] == 6 for windows in drawn.values())
    return {name: spelt(windows.tolist()) for name, windows in drawn.items()}


def slowly(shard, before, begin):
    """What ``draws`` should give if `before` comes before each text and each window begins with `begin`."""
    body, drawn, draw = 6 - len(begin), {}, random.Random(0)
    texts = [before + text for text in TEXTS]
    draw.shuffle(texts)
    starts = [draw.randint(0, len(text) - body - 1) for text in texts]
    drawn["calibration"] = [text[i : i + body] for text, i in zip(texts, starts, strict=True)]
    joined = {"training": texts, "joined": [before + text for text in SHORT]}
    random.Random(0).shuffle(joined["joined"])
    joined = {name: "".join(f"{text}." for text in texts) for name, texts in joined.items()}
    joined["evaluation"] = before + "\n\n".join(TEXTS)
    for name, text in joined.items():
        drawn[name] = [text[i : i + body] for i in range(0, len(text) - body + 1, body)]
    drawn["joined"] = drawn["joined"][:2]
    draw, drawn["published"] = random.Random(0), []
    while len(drawn["published"]) < 5:
        text = before + shard[1][draw.randint(0, len(shard[1]) - 1)]
        if len(text) > body:
            start = draw.randint(0, len(text) - body - 1)
            drawn["published"].append(text[start : start + body])
    return {name: [begin + window for window in windows] for name, windows in drawn.items()}


@pytest.mark.parametrize(
    "kind, how, before, begin",
    [
        ("gemma", {}, "", "^"),
        ("cohere", {}, "", "^"),
        ("gemma", {"bos": True}, "", "^"),
        ("gemma", {"bos": False}, "", ""),
        ("llama", {}, "^", ""),  # as published
        ("llama", {"bos": True}, "", "^"),
        ("llama", {"bos": False}, "", ""),
    ],
)
def test_windows_begin_as_the_family_needs_it_or_as_asked(kind, how, before, begin, shard):
    assert draws(letters_of(kind), shard[0], **how) == slowly(shard, before, begin)


def test_a_bos_that_the_text_spells_is_not_doubled():
    chats = [f"<bos>{text}" for text in TEXTS]
    for windows in (
        wn.calibration_tokens(letters_of("gemma"), chats, samples=3, length=26),
        wn.evaluation_tokens(letters_of("gemma"), chats[:1], length=6),
        wn.training_tokens(letters_of("gemma"), chats, length=6),
    ):
        assert bool((windows[:, 0] == 1).all()) and not bool((windows[:, 1:] == 1).any())


def test_a_bos_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"the tokenizer has no BOS token.*bos=False"):
        wn.evaluation_tokens(Letters(), LONG, length=4, bos=True)
    with pytest.raises(ValueError, match=r"begin with BOS, but length=1.*expected 2"):
        wn.training_tokens(letters_of("gemma"), TEXTS, length=1)


def test_whether_all_windows_begin_with_bos_is_read_from_them(model):
    windows = torch.tensor([[1, 5, 6], [1, 7, 8]])
    assert model.config.bos_token_id == 1
    assert begin_with_bos(model, windows) is True
    assert begin_with_bos(model, windows.roll(1, dims=1)) is False
    assert begin_with_bos(model, torch.tensor([[1, 5, 6], [4, 1, 8]])) is False
    padded, mask = torch.tensor([[0, 1, 5], [1, 5, 6]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert begin_with_bos(model, padded) is False and begin_with_bos(model, padded, mask) is True
    model.config.bos_token_id = None
    model.generation_config.bos_token_id = None
    assert begin_with_bos(model, windows) is None
