"""Documents of every source come in the same order again, from any position."""

import gzip
import json

import datasets
import pytest

import sae_lens_ext as sle
from sae_lens_ext.text import DocumentReader, document_reader

TEXTS = [f"text {number}" for number in range(7)]


def folder_of_files(tmp_path):
    """Two texts in files of their own, five as JSON lines, one of them compressed."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXTS[0])
    lines = [json.dumps({"text": text}) for text in TEXTS[1:4]]
    (folder / "b.jsonl").write_text("\n".join(lines))
    (folder / "c.txt").write_text("")
    lines = [json.dumps({"text": text}) for text in TEXTS[4:6]]
    with gzip.open(folder / "d.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    (folder / "e.md").write_text(TEXTS[6])
    return folder


def parquet_file(tmp_path):
    path = tmp_path / "texts.parquet"
    dataset().to_parquet(path)
    return path


def dataset(_=None):
    return datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(7))})


def streamed_json(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return datasets.load_dataset(
        "json",
        data_files=str(path),
        split="train",
        streaming=True,
        cache_dir=str(tmp_path / "cache"),
    )


SOURCES = {
    "folder": folder_of_files,
    "parquet": parquet_file,
    "dataset": dataset,
    "streamed_dataset": lambda _: dataset().to_iterable_dataset(num_shards=3),
    "streamed_json": streamed_json,
    "list": lambda _: list(TEXTS),
    "function": lambda _: lambda: iter(TEXTS),
}


def all_of(reader):
    texts = []
    while (text := reader.next_document()) is not None:
        texts.append(text)
    return texts


@pytest.mark.parametrize("kind", SOURCES)
def test_goes_on_at_the_next_document(kind, tmp_path):
    source = SOURCES[kind](tmp_path)
    reader = document_reader(source)
    assert isinstance(reader, DocumentReader)
    states = [reader.state()]
    for text in TEXTS:
        assert reader.next_document() == text
        # As a checkpoint keeps it.
        states.append(json.loads(json.dumps(reader.state())))

    for n_read, state in enumerate(states):
        fresh = document_reader(source)
        fresh.restore(state)
        assert all_of(fresh) == TEXTS[n_read:]
        fresh.start(1)
        assert all_of(fresh) == TEXTS


def read_from(source, n):
    reader = document_reader(source)
    for _ in range(n):
        reader.next_document()
    return reader


@pytest.mark.parametrize("streamed", [False, True])
def test_another_dataset_is_noticed(streamed):
    def of(texts):
        made = datasets.Dataset.from_dict({"text": texts})
        return made.to_iterable_dataset() if streamed else made

    state = json.loads(json.dumps(read_from(of(TEXTS), 2).state()))
    others = [f"not {text}" for text in TEXTS]
    with pytest.raises(sle.FormatError, match="first is another one than before"):
        document_reader(of(others)).restore(state)
    assert document_reader(of(others)).facts != document_reader(of(TEXTS)).facts
    assert document_reader(of(TEXTS)).facts == document_reader(of(TEXTS)).facts


def test_a_shuffled_stream_goes_on_without_losing_what_waits_in_its_buffer():
    texts = [f"text {number}" for number in range(40)]

    def shuffled(seed):
        made = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset()
        return made.shuffle(seed=seed, buffer_size=15)

    whole = all_of(document_reader(shuffled(3)))
    assert sorted(whole) == sorted(texts)
    state = json.loads(json.dumps(read_from(shuffled(3), 9).state()))
    fresh = document_reader(shuffled(3))
    fresh.restore(state)
    assert all_of(fresh) == whole[9:]
    with pytest.raises(sle.FormatError, match="number 9 is another one than before"):
        document_reader(shuffled(4)).restore(state)


def test_a_dataset_that_was_restored_is_read_from_its_start_again():
    source = dataset().to_iterable_dataset()
    state = read_from(source, 2).state()
    document_reader(source).restore(state)
    assert all_of(document_reader(source)) == TEXTS


def test_a_file_of_the_same_size_with_other_text_is_noticed(tmp_path):
    path = tmp_path / "texts.jsonl"

    def write(texts):
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts))

    write(["one", "two", "six"])
    state = json.loads(json.dumps(read_from(path, 2).state()))
    document_reader(path).restore(state)
    write(["one", "ten", "six"])
    with pytest.raises(sle.FormatError, match="document 2 of file 1 of 1 is another"):
        document_reader(path).restore(state)


def test_default_documents_can_be_read_again():
    reader = document_reader()
    first = reader.next_document()
    reader.start(1)
    assert reader.next_document() == first


def test_facts_tell_other_files_from_moved_ones(tmp_path):
    folder = folder_of_files(tmp_path)
    facts = document_reader(folder).facts
    moved = folder.rename(tmp_path / "moved")
    assert document_reader(moved).facts == facts
    (moved / "a.txt").write_text("longer than before")
    assert document_reader(moved).facts != facts


def test_rejects_files_that_became_shorter(tmp_path):
    folder = folder_of_files(tmp_path)
    reader = document_reader(folder)
    for _ in range(4):
        reader.next_document()
    (folder / "b.jsonl").write_text('{"text": "only this"}')
    with pytest.raises(sle.FormatError, match="file 2 of 5 has fewer than the 3"):
        document_reader(folder).restore(reader.state())


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, sle.InvalidArgument, "an iterable of texts .* type int"),
        (b"text", sle.InvalidArgument, "an object of type bytes"),
        ("missing/folder/here", sle.FormatError, "no file or folder"),
    ],
)
def test_rejects_sources_that_cannot_be_read(source, error, message):
    with pytest.raises(error, match=message):
        document_reader(source)


def test_rejects_documents_that_are_not_texts():
    reader = document_reader(["a", 3])
    reader.next_document()
    with pytest.raises(sle.InvalidArgument, match=r"documents\[1\] must be a string"):
        reader.next_document()


def test_a_dataset_without_text_is_an_error_that_names_the_column():
    with pytest.raises(sle.FormatError, match="no column 'body'; it has text, n"):
        document_reader(dataset(), column="body").next_document()
    empty = datasets.Dataset.from_dict({"text": []})
    with pytest.raises(sle.FormatError, match="the dataset has no rows"):
        document_reader(empty).next_document()
