"""Vision encoders: each answers as its own processor and backbone do, by a named rule, or is refused with a reason."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.perceiver.image_processing_pil_perceiver import PerceiverImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from worlds import each, tiny_gpt2

from hf_mia.architectures.encoders import ENCODERS
from hf_mia.core import Batch, Model, Probe
from hf_mia.models.backbones import RULES, Encoder
from hf_mia.models.vision import ImageCollate, encoder
from hf_mia.runner import Runner

SQUARE, EDGE = {"height": 32, "width": 32}, {"shortest_edge": 32}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SIZES, "vocab_size": 100, "max_position_embeddings": 16, "projection_dim": 8}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
IMAGES = [(50, 70), (70, 50), (32, 32), (5, 9), (1, 1), (400, 41)]  # height and width

Make = Callable[[], tuple[hf.PreTrainedModel, hf.BaseImageProcessor]]


def vit(**settings: object) -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    return hf.ViTModel(hf.ViTConfig(**VISION)), hf.ViTImageProcessorPil(**{"size": SQUARE, **settings})


def clip() -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    config = hf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    return hf.CLIPModel(config), CLIPImageProcessorPil(size=EDGE, crop_size=SQUARE)


def siglip() -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    return hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=VISION)), SiglipImageProcessorPil(size=SQUARE)


def convnext(edge: int = 32) -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    config = hf.ConvNextConfig(**STAGES, num_stages=2)
    return hf.ConvNextModel(config), ConvNextImageProcessorPil(size={"shortest_edge": edge})


def resnet() -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    config = hf.ResNetConfig(embedding_size=8, layer_type="basic", **STAGES)
    return hf.ResNetForImageClassification(config), ConvNextImageProcessorPil(size=EDGE, crop_pct=0.8)


def swin() -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    config = hf.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    return hf.SwinForImageClassification(config), vit()[1]


def mobilevit() -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    sizes = {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [8] * 6 + [16], "num_attention_heads": 2}
    config = hf.MobileViTConfig(image_size=32, **sizes)
    return hf.MobileViTModel(config), MobileViTImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE)


def segformer() -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    sizes = {"hidden_sizes": [8, 8, 8, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    return hf.SegformerModel(hf.SegformerConfig(**sizes)), vit()[1]


def masked() -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    sizes = {f"decoder_{name}": value for name, value in SIZES.items()}
    return hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**VISION, **sizes)), vit()[1]


def dinov2() -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    config = hf.Dinov2Config(**VISION, mlp_ratio=2)
    return hf.Dinov2Model(config), BitImageProcessorPil(size={"shortest_edge": 37}, crop_size=SQUARE, resample=1)


def own(name: str) -> tuple[hf.PreTrainedModel, hf.BaseImageProcessor]:
    config, model = ENCODERS[name]
    return model(config(width=2)), vit(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.1])[1]


def saved(folder: Path, made: tuple[hf.PreTrainedModel, hf.BaseImageProcessor]) -> Path:
    made[0].save_pretrained(folder)
    made[1].save_pretrained(folder)
    return folder


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> dict[str, object]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return saved(tmp_path_factory.mktemp("vit"), vit())


KINDS: dict[str, tuple[Make, str]] = {
    "vit": (vit, "pooler_output"),
    "vit-classifier": (lambda: (hf.ViTForImageClassification(hf.ViTConfig(**VISION)), vit()[1]), "class token"),
    "vit-of-0-to-255": (lambda: vit(do_rescale=False, do_normalize=False), "pooler_output"),
    "resnet-classifier": (resnet, "pooler_output"),
    "convnext": (convnext, "pooler_output"),
    "convnext-384": (lambda: convnext(384), "pooler_output"),
    "dinov2": (dinov2, "pooler_output"),
    "clip": (clip, "pooler_output"),
    "clip-vision": (lambda: (hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION)), clip()[1]), "pooler_output"),
    "siglip": (siglip, "pooler_output"),
    "siglip-vision": (lambda: (hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION)), siglip()[1]), "pooler_output"),
    "swin-classifier": (swin, "pooler_output"),
    "mobilevit": (mobilevit, "pooler_output"),  # takes BGR
    "segformer": (segformer, "mean over the map"),
    "ijepa": (lambda: (hf.IJepaModel(hf.IJepaConfig(**VISION)), vit()[1]), "mean over tokens"),
    "masked-autoencoder": (masked, "class token"),
    "our-resnet18": (lambda: own("resnet18"), "pooler_output"),
    "our-vgg11": (lambda: own("vgg11"), "pooler_output"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_answers_as_its_processor_and_backbone_do(tmp_path: Path, kind: str) -> None:
    """Features from pixels of the collate, in [0, 1], against the backbone on what the image processor makes."""
    torch.manual_seed(0)
    make, rule = KINDS[kind]
    model, processor = make()
    found = encoder(saved(tmp_path, (model, processor)))
    module = found.load()
    assert isinstance(module, Encoder)
    assert module.rule == rule
    whole = model.eval()
    inner = getattr(whole, "vision_model", None) or whole.base_model
    images = [picture(*size) for size in IMAGES]
    batch = found.collate.pad(found.collate.encode({"image": [png(image) for image in images]}))
    features = module(batch["pixels"] / 255)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    with torch.no_grad():
        for image, answer in zip(images, features, strict=True):
            if kind == "masked-autoencoder":
                inner.config.mask_ratio = 0.0
            expected = RULES[rule](inner(**processor(images=image, return_tensors="pt")))
            assert expected is not None
            torch.testing.assert_close(answer[None], expected.float(), rtol=1e-4, atol=1e-4)


def test_our_encoders_pool_by_the_mean_over_the_map(tmp_path: Path) -> None:
    model, processor = own("resnet18")
    module = encoder(saved(tmp_path, (model, processor))).load()
    images = torch.rand(3, 3, 32, 32)
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        expected = model.eval()(pixel_values=(images - mean) / deviation).last_hidden_state.mean((2, 3))
    torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-5)


def test_the_collate_gives_pixels_and_a_digest_of_them() -> None:
    collate = ImageCollate(size=8)
    images = [png(picture(*size)) for size in [(8, 8), (16, 8), (8, 8)]]
    items = collate.encode({"image": images})
    batch = collate.pad(items)
    assert batch["pixels"].shape == (3, 3, 8, 8)
    assert (batch["pixels"].dtype, batch["seed"].dtype) == (torch.uint8, torch.int64)
    assert batch["seed"][0] == batch["seed"][2] != batch["seed"][1]
    assert (batch["seed"] >= 0).all()
    np.testing.assert_array_equal(batch["pixels"][0].permute(1, 2, 0), np.asarray(picture(8, 8)))
    assert [item.record for item in items] == [0, 1, 2]
    assert 4096 // ImageCollate(32).encode({"image": images})[0].size == 1024
    assert 4096 // ImageCollate(224).encode({"image": images})[0].size == 20


def test_images_that_cannot_be_used_are_named() -> None:
    with pytest.raises(ValueError, match=r"image 1 of its chunk \(b\.png\) cannot be opened: .*Leave it out"):
        ImageCollate(8).encode({"image": [png(picture(3, 3)), {"bytes": b"no", "path": "b.png"}]})
    with pytest.raises(ValueError, match=r"image 0 of its chunk .* cannot be used: .*1 x 30000.*Crop it"):
        ImageCollate(224, 224).encode({"image": [png(picture(30_000, 1))]})


@dataclass(frozen=True)
class Asked(Probe):
    """The features of the images, and their digests."""

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return {"feature": module(batch["pixels"] / 255), "seed": batch["seed"][:, None]}


@pytest.fixture(scope="module")
def records() -> Dataset:
    images = [png(picture(height, 10 + height % 3)) for height in range(8, 31)]
    kinds = datasets.Features({"image": datasets.Image(decode=False)})
    return Dataset.from_dict({"image": images, "label": list(range(23))}).cast_column("image", kinds["image"])


@pytest.mark.parametrize(("chunk", "tokens"), [(1, 4096), (5, 8), (23, 1), (1000, 20)])
def test_chunks_and_batches_do_not_matter(
    vit_folder: Path, records: Dataset, tmp_path: Path, chunk: int, tokens: int
) -> None:
    model = encoder(vit_folder)
    expected = list(each(Runner(tmp_path / "a")(model, Asked(), records)))
    found = list(each(Runner(tmp_path / "b", chunk=chunk, tokens=tokens)(model, Asked(), records)))
    assert len(found) == len(expected) == 23
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["feature"], other["feature"], rtol=0, atol=1e-5)
        assert one["seed"] == other["seed"]


def test_the_key_is_weights_processor_and_rule(vit_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    again = saved(tmp_path / "again", vit())
    assert encoder(again).key == encoder(vit_folder).key
    settings = json.loads((again / "preprocessor_config.json").read_text())
    (again / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.4, 0.5, 0.5]}))
    assert encoder(again).key != encoder(vit_folder).key
    assert encoder(vit_folder).name == str(vit_folder)
    assert encoder(saved(tmp_path / "other", vit())).key != encoder(vit_folder).key


def changed(folder: Path, **settings: object) -> Path:
    path = saved(folder, vit()) / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def gpt2(folder: Path) -> Path:
    vit()[1].save_pretrained(tiny_gpt2(folder))
    return folder


def bert(folder: Path) -> Path:
    sizes = {name: value for name, value in TEXT.items() if name != "projection_dim"}
    return saved(folder, (hf.BertModel(hf.BertConfig(**sizes)), vit()[1]))


def detector(folder: Path) -> Path:
    stages = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "out_features": ["stage4"]}
    backbone = hf.ResNetConfig(embedding_size=8, **stages)
    return saved(folder, (hf.DetrModel(hf.DetrConfig(backbone_config=backbone, d_model=16)), vit()[1]))


def no_pooled_feature(folder: Path) -> Path:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16, "window_size": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 8, "global_attn_indexes": [0]}
    config = hf.SamConfig(vision_config=vision, prompt_encoder_config={"image_size": 32, "patch_size": 8})
    return saved(folder, (hf.SamModel(config), vit()[1]))


def pickled(folder: Path) -> Path:
    saved(folder, vit())
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    return folder


def lacking(folder: Path) -> Path:
    model, processor = vit()
    processor.save_pretrained(folder)
    weights = {name: value for name, value in model.state_dict().items() if "layers.1." not in name}
    model.save_pretrained(folder, state_dict=weights)
    return folder


def of_another_width(folder: Path) -> Path:
    path = saved(folder, vit()) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 48}))
    return folder


def no_processor(folder: Path) -> Path:
    (saved(folder, vit()) / "preprocessor_config.json").unlink()
    return folder


def remote_code(folder: Path) -> Path:
    path = saved(folder, vit()) / "config.json"
    mapped = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | mapped))
    (folder / "theirs.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


def remote_processor(folder: Path) -> Path:
    changed(folder, image_processor_type="Theirs", auto_map={"AutoImageProcessor": "theirs.Theirs"})
    (folder / "theirs.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (gpt2, r"is no vision encoder \(gpt2\).*ResNet.*CLIP"),
        (bert, r"is no vision encoder \(bert\).*ResNet.*CLIP"),
        (detector, r"is no vision encoder \(detr\)"),
        (no_pooled_feature, r"\(SamModel\) answers with no pooled feature: its SamImage.*'pred_masks'.*backbone alone"),
        (pickled, r"no safetensors weights.*save_pretrained"),
        (lacking, r"lacks 16 of the weights.*'layers\.1\..*Save the whole model again"),
        (of_another_width, r"lacks 6 of the weights.*mlp.*Save the whole model again"),
        (no_processor, r"no image processor that transformers can load.*processor\.save_pretrained"),
        (remote_code, r"code.*not run"),
        (remote_processor, r"no image processor that transformers can load"),
        (
            lambda folder: changed(folder, do_resize=False),
            r"images of different sizes \(do_resize = False.*Set do_resize",
        ),
        (lambda folder: changed(folder, size={"longest_edge": 9, "shortest_edge": 9}), r"images of different.*longest"),
        (
            lambda folder: changed(folder, size={"height": 48, "width": 48}),
            r"3 x 48 x 48.*doesn't match.*fit each other",
        ),
        (
            lambda folder: saved(folder, (vit()[0], PerceiverImageProcessorPil(size=SQUARE, crop_size=SQUARE))),
            r"\(PerceiverImageProcessorPil\) that does more than.*CLIPImageProcessor",
        ),
    ],
)
def test_what_cannot_be_audited_is_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    folder = make(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"(?s){message}") as caught:
        encoder(folder)
    assert str(folder) in str(caught.value)
    assert not (folder / "ran").exists()


def test_a_missing_path_is_named() -> None:
    with pytest.raises(ValueError, match=r"'no/such/folder'.*local folder"):
        encoder("no/such/folder")


def test_weights_that_are_pickled_beside_safe_ones_are_never_read(vit_folder: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path, vit())
    (folder / "pytorch_model.bin").write_bytes(b"a bomb")
    model: Model = encoder(folder)
    assert isinstance(model.load(), Encoder)
