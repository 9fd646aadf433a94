"""The files of goc random-weights, read by the loaders that read the released ones."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from goc.cli import random_weights
from goc.config import compose_config
from goc.models.build import load_model
from goc.models.checkpoint import load_weights
from goc.models.dit import DiT
from goc.models.network import BRANCHES
from goc.system.command import run_command
from goc.system.errors import GocError
from goc.system.files import file_sha256

IMAGE_SIZE, LATENT_SIZE = 128, 16
DENOISER = f"DiT-S-8-{IMAGE_SIZE}x{IMAGE_SIZE}.pt"


def generate(folder: Path, *options: str) -> int:
    size = ["--model", "DiT-S/8", "--image-size", str(IMAGE_SIZE), "--reference-images", "3", "--tiny-vae"]
    return run_command(partial(random_weights.main, ["--out", str(folder), *size, *options]))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("weights")
    assert generate(folder) == 0
    yield folder
    shutil.rmtree(folder)  # 300 MB, which pytest would keep for three sessions


@pytest.fixture(scope="module")
def denoiser(weights: Path) -> DiT:
    model = DiT.published("DiT-S/8", LATENT_SIZE)
    load_weights(model, weights / DENOISER)
    return model.eval().requires_grad_(False)


def test_flow_matchings_weights_are_known_by_their_variance_half(tmp_path: Path) -> None:
    path = tmp_path / "SiT.pt"
    random_weights.write_denoiser(path, "SiT-S/8", IMAGE_SIZE, seed=0)
    shape = compose_config(["model=sit_s_2_256", "model.patch_size=8", f"model.input_size={LATENT_SIZE}",
                            "model.checkpoint=x"]).measurement.model.shape()  # fmt: skip
    model = load_model(shape, path, "flow")
    assert rms(model(torch.randn(1, 4, LATENT_SIZE, LATENT_SIZE), torch.tensor([0.5]), torch.tensor([3]))[:, :4]) > 0.3
    with pytest.raises(GocError, match="must be flow"):
        load_model(shape, path, "diffusion")


def rms(values: torch.Tensor) -> float:
    return values.square().mean().sqrt().item()


def test_the_denoisers_output_is_of_order_one_and_depends_on_every_input(denoiser: DiT) -> None:
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 2, 4, LATENT_SIZE, LATENT_SIZE, generator=generator)
    t, y = torch.tensor([500]), torch.tensor([3, 1000])
    output = denoiser(x, t, y)
    assert 0.3 < rms(output) < 3
    for changed in (denoiser(noise, t, y), denoiser(x, torch.tensor([450]), y), denoiser(x, t, y - 1)):
        assert rms(changed - output) > 0.1


def test_every_block_changes_the_residual_stream_and_none_blows_it_up(denoiser: DiT) -> None:
    h = torch.randn(2, denoiser.num_tokens, denoiser.hidden_size, generator=torch.Generator().manual_seed(1))
    activated = torch.nn.functional.silu(
        denoiser.t_embedder(torch.tensor([500])) + denoiser.y_embedder(torch.tensor([1, 2]))
    )
    modulation = denoiser.modulation(activated)
    for index, block in enumerate(denoiser.blocks):
        output = h.clone()
        for branch in range(BRANCHES):
            output, _ = block(branch, output, modulation.of(index, branch))
        assert rms(output - h) > 0.1
        h = output
    assert rms(h) < 10


def test_diffusers_loads_the_vae(weights: Path) -> None:
    vae = AutoencoderKL.from_pretrained(weights / "vae", local_files_only=True, low_cpu_mem_usage=False)
    assert vae.config.scaling_factor == 0.18215
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        images = vae.decode(latents).sample
        assert vae.encode(images).latent_dist.mode().shape == latents.shape
    assert images.shape == (2, 3, 32, 32)
    assert 0.05 < images.std() < 5
    assert rms(images[0] - images[1]) > 0.05


def test_the_full_vae_has_the_released_architecture() -> None:
    with torch.device("meta"):
        vae = random_weights.untrained_vae(256, tiny=False)
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863  # of sd-vae-ft-ema
    assert vae.decoder.conv_in.weight.shape == (512, 4, 3, 3)


def test_torch_fidelity_loads_the_inception_and_its_features_differ_between_images(weights: Path) -> None:
    extractor = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights / "inception.pth")
    )
    assert not isinstance(extractor, random_weights.UntrainedInception)
    images = torch.from_numpy(np.load(weights / "reference.npz")["arr_0"][:2]).permute(0, 3, 1, 2)
    features, logits = extractor(images)
    for values in (features, logits):
        assert values.isfinite().all()
        assert values.std() > 0.05
        assert rms(values[0] - values[1]) > 1e-2 * rms(values)


def test_the_reference_has_adms_layout_and_valid_statistics(weights: Path) -> None:
    with np.load(weights / "reference.npz") as reference:
        assert set(reference) == {"mu", "sigma", "mu_s", "sigma_s", "arr_0"}
        assert reference["arr_0"].shape == (3, IMAGE_SIZE, IMAGE_SIZE, 3)
        assert reference["arr_0"].dtype == np.uint8
        assert len(np.unique(reference["arr_0"])) > 100
        for mu, sigma, features in (("mu", "sigma", 2048), ("mu_s", "sigma_s", 2023)):
            assert reference[mu].shape == (features,)
            covariance = reference[sigma]
            assert covariance.shape == (features, features)
            np.testing.assert_array_equal(covariance, covariance.T)
            np.linalg.cholesky(covariance + 1e-9 * np.eye(features))  # raises unless positive semi-definite
            assert np.trace(covariance) == pytest.approx(features, rel=0.1)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_the_files_depend_on_the_seed_alone(weights: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # what the process drew before does not matter
    expected = hashes(weights)
    vae = {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    names = {DENOISER, "inception.pth", "dinov2.pth", "reference.npz", *vae}
    assert set(expected) == names
    try:
        assert generate(tmp_path, "--seed", "0") == 0
        assert hashes(tmp_path) == expected
        assert generate(tmp_path, "--seed", "1") == 0
        same = {name for name, digest in hashes(tmp_path).items() if digest == expected[name]}
        assert same == {"vae/config.json"}
    finally:
        shutil.rmtree(tmp_path)


def test_the_tiny_pipeline_depends_on_the_seed_alone(tiny_pipeline: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    for seed in (0, 1):
        assert random_weights.main(["--pipeline", str(tmp_path / str(seed)), "--seed", str(seed)]) == 0
    expected, other = hashes(tiny_pipeline), hashes(tmp_path / "1")
    assert {"model_index.json", "prompts.txt", "clip/model.safetensors"} <= expected.keys()
    assert hashes(tmp_path / "0") == expected
    differing = {name for name, digest in other.items() if digest != expected[name]}
    assert differing == {name for name in expected if name.endswith(".safetensors")}
    assert sum(path.stat().st_size for path in tiny_pipeline.rglob("*") if path.is_file()) < 1_000_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "DiT-S/3"], "error: --model DiT-S/3: must be one of DiT-S/2, DiT-S/4, DiT-S/8, DiT-B/2"),
        (["--image-size", "200"], "error: --image-size 200: must be a multiple of 64 for DiT-S/8"),
        (["--reference-images", "0"], "error: --reference-images=0: must be at least 1"),
    ],
)
def test_a_wrong_setting_is_one_line(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(tmp_path, *options) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
