"""Images from every kind of source, every way in which one can be broken or odd, and what is said of it."""

from __future__ import annotations

import io
import json
import logging
import warnings
from hashlib import blake2b
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from PIL import Image, ImageFile

from hf_mia.core import Pool
from hf_mia.data.images import Images, decode, load_images, overlap, pixel_digests
from hf_mia.models.pixels import looks
from hf_mia.storage.keys import content_key, records_key

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)


def coded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def shown(content: bytes) -> np.ndarray:
    return np.asarray(decode({"bytes": content, "path": None}, "'x'"))


def dataset(contents: list[bytes | None], column: str = "image", **columns: list[object]) -> Dataset:
    kinds = Features({column: datasets.Image(decode=False)})
    found = Dataset.from_dict({column: [c and {"bytes": c, "path": None} for c in contents]}, features=kinds)
    for name, values in columns.items():
        found = found.add_column(name, values)
    return found


def written(folder: Path, found: Dataset, name: str = "train.parquet") -> Path:
    folder.mkdir(exist_ok=True)
    found.to_parquet(folder / name)
    return folder


def pool(contents: list[bytes]) -> Pool:
    return Pool(dataset(contents), np.arange(len(contents)), tuple(f"{i:06d}" for i in range(len(contents))))


PNGS = [coded(pixels) for pixels in PIXELS]


def test_the_embedded_default_are_the_digits() -> None:
    found = load_images(Images())
    assert len(found.names) == len(found.records) == 1797
    assert found.names[123] == "000123"
    assert found.records.column_names == ["image", "label"]
    first = shown(found.records[0]["image"]["bytes"])
    from sklearn.datasets import load_digits

    np.testing.assert_array_equal(first[..., 0], np.rint(load_digits().images[0] * 255 / 16))
    with pytest.raises(ValueError, match=r"data\.split = 'test'.*only the split 'train'"):
        load_images(Images(split="test"))


def test_a_folder_in_the_hubs_layout_stays_encoded(tmp_path: Path) -> None:
    folder = written(tmp_path, dataset(PNGS, "img", label=list(range(8))), "train-00000-of-00001.parquet")
    written(tmp_path, dataset([coded(255 - PIXELS[0])], "img", label=[3]), "test-00000-of-00001.parquet")
    found = load_images(Images(path=str(folder), image="img", split="train+test"))
    assert found.names == tuple(f"{i:06d}" for i in range(9))
    assert found.records["label"][:] == [*range(8), 3]
    assert found.records.features["label"] == Value("int64")
    assert found.records.features["image"] == datasets.Image(decode=False)
    assert [value["bytes"] for value in found.records["image"]][:8] == PNGS


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})]
)
def test_bytes_are_images_too(tmp_path: Path, kind: pa.DataType) -> None:
    values = [{"bytes": png, "path": "a.png"} for png in PNGS] if pa.types.is_struct(kind) else PNGS
    pq.write_table(pa.table({"image": pa.array(values, kind)}), tmp_path / "x.parquet")
    found = load_images(Images(path=str(tmp_path / "x.parquet")))
    assert [value["bytes"] for value in found.records["image"]] == PNGS
    assert found.records.column_names == ["image"]


def test_a_folder_of_files_is_read_by_path(tmp_path: Path) -> None:
    for i, png in enumerate(PNGS):
        (tmp_path / f"{i}.png").write_bytes(png)
    found = load_images(Images(path=str(tmp_path)))
    assert len(found.names) == 8
    np.testing.assert_array_equal(np.asarray(decode(found.records[5]["image"], "5")), PIXELS[5])
    Path(found.records[5]["image"]["path"]).unlink()
    with pytest.raises(ValueError, match=r"1 of 8 images cannot be opened, such as 000005 \(.*No such file"):
        pixel_digests(found)


def test_labels_choose_another_distribution(tmp_path: Path) -> None:
    folder = written(tmp_path, dataset(PNGS, label=[0, 1, 2, 0, 1, 2, None, 1]))
    found = load_images(Images(path=str(folder), labels=(0, 2)))
    assert found.names == ("000000", "000002", "000003", "000005")
    assert found.records["label"][:] == [0, 2, 0, 2]
    assert load_images(Images(path=str(folder))).records["label"][6] == -1
    assert load_images(Images(path=str(folder), label=None)).records.column_names == ["image"]
    with pytest.raises(ValueError, match=r"no image of data\.labels = \[7\] in data\.split = 'train'"):
        load_images(Images(path=str(folder), labels=(7,)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"data\.image = 'image' is no column.*\['img', 'coarse', 'note'\]\. Set data\.image=img"),
        ({"image": "note"}, r"data\.image = 'note' is no image column.*string.*Set data\.image=img.*cast_column"),
        ({"image": "coarse"}, r"'coarse' is no image column.*int64"),
        ({"image": "img", "label": "fine"}, r"data\.label = 'fine' is no column.*coarse"),
        ({"image": "img", "label": "note"}, r"data\.label = 'note' holds string.*whole numbers.*data\.label=null"),
        ({"image": "img", "labels": (1,)}, r"data\.label = 'label' is no column"),
        ({"image": "img", "label": None, "labels": (1,)}, r"data\.labels keeps some classes, so data\.label must"),
        ({"image": "img", "split": "validation"}, r"data\.path = .*validation"),
    ],
)
def test_columns_that_do_not_fit_are_named(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    folder = written(tmp_path, dataset(PNGS, "img", coarse=list(range(8)), note=["a"] * 8))
    with pytest.raises(ValueError, match=message):
        load_images(Images(path=str(folder), **settings))  # type: ignore[arg-type]


def test_arrays_of_pixels_are_no_image_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [[[1, 2], [3, 4]]]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"data\.image = 'image' is no image column: it holds List"):
        load_images(Images(path=str(tmp_path / "x.parquet")))


def test_a_data_set_without_images_and_a_file_of_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "words"}))
    with pytest.raises(ValueError, match=r"data\.image = 'image' is no column of the data: it has \['text'\]\.$"):
        load_images(Images(path=str(tmp_path / "t.jsonl")))
    (tmp_path / "x.png").write_bytes(PNGS[0])
    with pytest.raises(ValueError, match=r"ends in '\.png': files can be"):
        load_images(Images(path=str(tmp_path / "x.png")))


def test_repeated_images_and_empty_rows_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = written(tmp_path, dataset([PNGS[0], PNGS[1], PNGS[0], None, PNGS[2], PNGS[1]]))
    with caplog.at_level(logging.WARNING):
        found = load_images(Images(path=str(folder)))
    assert found.names == ("000000", "000001", "000004")
    assert "2 of 6 images repeat an earlier one" in caplog.text
    assert "1 of 6 rows have no image" in caplog.text


def test_overlap_counts_what_is_shown_however_it_is_stored() -> None:
    ours = pool([coded(pixels) for pixels in PIXELS[:5]])
    theirs = pool([coded(pixels, "BMP") for pixels in PIXELS[3:]] + [coded(PIXELS[0][:6])])
    assert overlap(ours, theirs) == 2
    assert len(set(pixel_digests(theirs))) == 6


def test_looks_are_a_thumbnail_and_the_form_of_the_file() -> None:
    """Unit by unit, wherever its record stands: as Pillow alone tells."""
    odd = [Image.new("RGB", (1, 1), (9, 8, 7)), Image.fromarray(PIXELS[1][..., 0]), Image.new("RGB", (40, 3), "red")]
    encoded = [PNGS[0], *(coded(image) for image in odd), coded(PIXELS[0], "BMP"), PNGS[0]]
    unit = np.array([3, 0, 5, 1, 4, 2])
    shuffled = Pool(dataset(encoded), unit, tuple("abcdef"))
    numbers, content = looks(shuffled)
    assert numbers.shape == (6, 196)
    for row, file in enumerate(encoded):
        image = Image.open(io.BytesIO(file)).convert("RGB")
        small = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)).ravel() / 255
        gray = np.asarray(image.convert("L"), dtype=np.float64)
        deviation = np.sqrt(np.mean((gray - gray.mean()) ** 2)) / 255
        expected = [*small, deviation, np.log(image.width), np.log(image.height), np.log(len(file))]
        np.testing.assert_allclose(numbers[unit[row]], expected, rtol=1e-12, atol=1e-15)
    assert content[unit[0]] == content[unit[5]]  # the same file twice
    assert len(set(content)) == 5  # the same picture in another form of file is told apart


def test_the_blind_baseline_sees_brightness_and_nothing_in_a_fair_game() -> None:
    pixels = np.random.default_rng(1).integers(0, 200, (60, 9, 9, 3), dtype=np.uint8)
    member = np.random.default_rng(2).permutation(60) < 30
    aucs = []
    for planted in (0, 40):
        scores = Images().blind(
            pool([coded(one + np.uint8(planted * m)) for one, m in zip(pixels, member, strict=True)]), member
        )
        aucs.append((scores[member][:, None] > scores[~member]).mean())
    assert abs(aucs[0] - 0.5) < 0.25  # three deviations of chance
    assert aucs[1] > 0.95


TRUNCATED = coded(PIXELS[0], "JPEG")[:-200]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>404</html>", "no image of these formats: PNG, JPEG"),
        (coded(Image.new("RGB", (3, 3)), "PCX"), "no image of these formats: PNG, JPEG"),
        (
            coded(Image.new("RGB", (3, 3)), "EPS"),
            "no image of these formats: PNG, JPEG",
        ),  # another program would read it
        (b"", "it is empty"),
        (TRUNCATED, "truncated"),
        (PNGS[0][:-60], "(truncated|broken|CRC|incomplete)"),
        (coded(Image.new("F", (3, 3)), "TIFF"), "floating-point numbers of no known range"),
        (coded(Image.fromarray(np.full((3, 3), 70_000, dtype=np.int32)), "TIFF"), "32-bit numbers of no known range"),
    ],
)
def test_what_cannot_be_opened_is_named_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"(?i)image 'x' cannot be opened: .*{reason}.*Leave it out of the data"):
        shown(content)
    with pytest.raises(
        ValueError, match=rf"(?i)1 of 3 images cannot be opened, such as 000001 \(.*{reason}.*Leave them"
    ):
        pixel_digests(pool([PNGS[0], content, PNGS[1]]))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_bomb_is_refused_and_pillow_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 144 pixels: Pillow warns; from 200 on it raises
    before = list(warnings.filters)
    for content in (PNGS[0], coded(np.zeros((20, 20), np.uint8))):
        with pytest.raises(ValueError, match=r"it is too large.*shrink it, or raise PIL\.Image\.MAX_IMAGE_PIXELS"):
            shown(content)
    assert warnings.filters == before


def test_every_kind_of_image_becomes_rgb() -> None:
    gray = PIXELS[0, ..., 0]
    three = np.repeat(gray[..., None], 3, axis=2)
    np.testing.assert_array_equal(shown(coded(gray)), three)
    np.testing.assert_array_equal(shown(coded(gray.astype(np.uint16) * 256 + 77)), three)  # the upper 8 bits
    np.testing.assert_array_equal(shown(coded(gray.astype(np.uint16) * 256, "PPM")), three)
    np.testing.assert_array_equal(shown(coded(np.dstack([gray, 255 - gray]))), three)  # LA
    np.testing.assert_array_equal(shown(coded(np.dstack([PIXELS[0], gray]))), PIXELS[0])  # RGBA: alpha is dropped
    np.testing.assert_array_equal(shown(coded(gray > 127)), 255 * np.repeat((gray > 127)[..., None], 3, axis=2))
    cmyk = Image.fromarray(PIXELS[0]).convert("CMYK")
    np.testing.assert_array_equal(shown(coded(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")))
    assert shown(coded(np.array([[[9, 8, 7]]], dtype=np.uint8))).tolist() == [[[9, 8, 7]]]  # one pixel


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning() -> None:
    image = Image.fromarray(PIXELS[0]).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(shown(coded(image, transparency=bytes(range(0, 160, 10)))), expected)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((5, 5), level, np.uint8)) for level in (10, 200, 90)]
    assert (shown(coded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == 10).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied_as_datasets_does(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    content = coded(PIXELS[0][:7], "PNG", exif=exif)
    decoded = datasets.Image().decode_example({"bytes": content, "path": None})
    np.testing.assert_array_equal(shown(content), np.asarray(decoded))
    assert shown(content).shape == ((7, 12, 3) if turn < 5 else (12, 7, 3))


def test_twenty_megapixels_are_fine() -> None:
    content = coded(Image.linear_gradient("L").resize((5000, 4000)), "JPEG", quality=30)
    assert shown(content).shape == (4000, 5000, 3)


def test_the_key_is_the_content_wherever_it_lies(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for path, png in zip(paths, PNGS, strict=True):
        path.write_bytes(png)
    stored = dataset(PNGS)
    linked = Dataset.from_dict({"image": list(map(str, paths))}).cast_column("image", datasets.Image())
    renamed = Dataset.from_list([{"image": {"bytes": png, "path": f"{i}"}} for i, png in enumerate(PNGS)])
    keys = {records_key(found, ("image",)) for found in (stored, linked, renamed, stored.select(range(8)))}
    assert len(keys) == 1
    assert records_key(stored.select([1, 0, *range(2, 8)]), ("image",)) not in keys
    assert records_key(dataset([*PNGS[:7], PNGS[7] + b"\0"]), ("image",)) not in keys


def test_the_key_of_texts_is_what_it_was() -> None:
    """Answers that are cached about texts stay valid."""
    texts, users = [f"text {i}" for i in range(5000)], [f"user {i % 7}" for i in range(5000)]
    found = Dataset.from_dict({"text": texts, "user": users})
    digest = blake2b(digest_size=16)
    for start in (0, 4096):
        for column in (texts, users):
            digest.update(content_key(column[start : start + 4096]).encode())
    assert records_key(found, ("text", "user")) == digest.hexdigest()
    assert records_key(Dataset.from_dict({"text": ["a", "b"]}), ("text",)) == "e367d5f8a05118baaa48df88383c0f0f"
