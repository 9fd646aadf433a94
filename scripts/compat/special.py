"""What is not as usual in pipelines of diffusers: parts, arguments, and what text encoders would give."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from compat.parts import PARTS, Chat, Conditions, Connectors, Harmless, Scales, StandIn, of
from compat.pixels import picture, video
from compat.tiny import Arguments, Ask, randomized
from compat.zoo import ZOO


@dataclass(frozen=True)
class Special:
    """What is not as usual in a pipeline.

    config: of its transformer. parts: makers of its other parts. call: more arguments of a call. methods: of the
    pipeline, where a text encoder would be asked, and other attributes. globals: of its module, such as sizes.
    """

    config: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Callable[[], Any]] = field(default_factory=dict)
    call: Callable[[Ask], Arguments] = lambda ask: {}
    methods: Callable[[Ask], dict[str, Any]] = lambda ask: {}
    globals: dict[str, Any] = field(default_factory=dict)


def masks(kind: torch.dtype) -> Callable[[Ask], Arguments]:
    """Masks of another type."""
    names = "prompt_attention_mask", "prompt_embeds_mask"
    return lambda ask: {f"{sign}{name}": ask.mask(kind) for sign in ("", "negative_") for name in names}


def signed(**makers: Callable[[Ask], Any]) -> Callable[[Ask], Arguments]:
    """Embeddings of the prompt, and half of them for the negative prompt."""
    return lambda ask: {
        f"{sign}{name}": value
        if not isinstance(value, torch.Tensor) or not value.is_floating_point()
        else scale * value
        for sign, scale in (("", 1.0), ("negative_", 0.5))
        for name, value in ((name, make(ask)) for name, make in makers.items())
    }


def both(*calls: Callable[[Ask], Arguments]) -> Callable[[Ask], Arguments]:
    """All of them."""
    return lambda ask: {key: value for call in calls for key, value in call(ask).items()}


def fixed(**values: Any) -> Callable[[Ask], Arguments]:
    """The same ones in every call."""
    return lambda ask: values


SPECIALS: dict[str, Special] = {}


def special(names: str, **what: Any) -> None:
    """Register what is not as usual in the pipelines of these names."""
    for name in names.split():
        SPECIALS[f"{name}Pipeline"] = Special(**what)


NONE = fixed(image=None, video=None, mask_image=None)
special("Chroma ChromaImg2Img ChromaInpaint", call=masks(torch.bool))
special("DiT", call=lambda ask: {"class_labels": [ask.tokens] * ask.batch, "output_type": "pt"})
special("Flux2 Flux2Klein", call=NONE)
special("FluxControl FluxControlImg2Img FluxControlInpaint", config={"in_channels": 32, "out_channels": 16})
special("FluxFill", config={"in_channels": 288, "out_channels": 16})
special("FluxKontext FluxKontextInpaint", call=fixed(max_area=64 * 64, _auto_resize=False))
special("CogView4Control", config={"in_channels": 8})
special("CogVideoXImageToVideo CogVideoXFunControl", config={"in_channels": 8})
special("Latte", call=fixed(video_length=2))
special("Mochi", call=both(masks(torch.bool), signed(prompt_embeds=lambda ask: ask.text(16))))
special("MotifVideo", config={"in_channels": 9})
special("LucyEdit", config={"in_channels": 8})
special("WanImageToVideo", config={"in_channels": 12})
special("WanVACE", config={"vace_in_channels": 72}, call=fixed(video=None))
special("CosmosTextToWorld", parts={"safety_checker": Harmless})
special("Cosmos2_5_PredictBase", parts={"safety_checker": Harmless}, config={"in_channels": 5}, call=fixed(video=None))
special("HunyuanVideo", config={"pooled_projection_dim": 10})
special("HunyuanImage", config={"text_embed_2_dim": 10}, call=signed(
    prompt_embeds_2=lambda ask: ask.text(10), prompt_embeds_mask_2=lambda ask: ask.mask()
))  # fmt: skip
special("HunyuanDiT HunyuanDiTPAG HunyuanDiTControlNet", call=signed(
    prompt_embeds=lambda ask: ask.noise(ask.batch, 5, 12), prompt_embeds_2=lambda ask: ask.noise(ask.batch, 6, 16),
    prompt_attention_mask=lambda ask: torch.ones(ask.batch, 5, dtype=torch.long),
    prompt_attention_mask_2=lambda ask: torch.ones(ask.batch, 6, dtype=torch.long),
))  # fmt: skip
special("HiDreamImage", call=signed(
    prompt_embeds_t5=lambda ask: ask.text(12), pooled_prompt_embeds=lambda ask: ask.vector(6),
    prompt_embeds_llama3=lambda ask: ask.noise(2, ask.batch, ask.tokens, 10),
))  # fmt: skip
special("Kandinsky5T2V Kandinsky5T2I", call=signed(
    prompt_embeds_qwen=lambda ask: ask.text(12), prompt_embeds_clip=lambda ask: ask.vector(8),
    prompt_cu_seqlens=lambda ask: torch.arange(ask.batch + 1, dtype=torch.int32) * ask.tokens,
))  # fmt: skip
SPECIALS["Kandinsky5I2VPipeline"] = SPECIALS["Kandinsky5T2VPipeline"]
SPECIALS["Kandinsky5I2IPipeline"] = SPECIALS["Kandinsky5T2VPipeline"]
special(
    "Krea2", call=both(masks(torch.bool), signed(prompt_embeds=lambda ask: ask.noise(ask.batch, ask.tokens, 2, 16)))
)
special("ZImageOmni", call=both(fixed(image=None), signed(prompt_embeds=lambda ask: [[one] for one in ask.text(12)])))
special("ZImage ZImageImg2Img ZImageInpaint", call=signed(prompt_embeds=lambda ask: list(ask.text(12))))
special("PRX PRXPixel", call=masks(torch.bool))
special("GlmImage", call=lambda ask: {
    "image": None, "prior_token_ids": torch.arange((ask.size // 2) ** 2).remainder(16).repeat(ask.batch, 1),
})  # fmt: skip
special("Helios HeliosPyramid", call=fixed(image=None, video=None))

special("AnyFlow AnyFlowFAR", call=fixed(video=None))
special("BriaFibo2", call=both(NONE, signed(prompt_embeds=lambda ask: ask.noise(ask.batch, 2, ask.tokens, 12))))
special("HunyuanVideoImageToVideo", config={"pooled_projection_dim": 10, "image_condition_type": "token_replace"})
special("HunyuanSkyreelsImageToVideo", config={"pooled_projection_dim": 10, "in_channels": 8})
special("MotifVideoImage2Video", config={"in_channels": 9}, parts={"image_encoder": StandIn})
special("SkyReelsV2DiffusionForcingVideoToVideo", call=fixed(overlap_history=1, base_num_frames=5))
special("JoyImageEditPlus", call=lambda ask: {"images": [[picture(ask)]] * ask.batch})
special("Kandinsky5I2V Kandinsky5I2I", config={"visual_cond": True}, call=SPECIALS["Kandinsky5T2VPipeline"].call,
        methods=lambda ask: {"resolutions": [(8 * ask.size, 8 * ask.size)]})  # fmt: skip
special(
    "Kandinsky6TI2VA",
    call=both(NONE, fixed(sample_audio=False), signed(pooled_prompt_embeds=lambda ask: ask.vector(8))),
)


def encodes_image(tokens: int, width: int) -> Callable[[Ask], dict[str, Callable[..., Any]]]:
    """In place of an image encoder, what it would give."""
    return lambda ask: {"encode_image": lambda *_, **__: ask.noise(1, tokens, width)}


IMAGE = {"in_channels": 12, "image_dim": 8, "added_kv_proj_dim": 24}  # of Wan's kin that see a picture's embeddings
special("ChronoEdit SkyReelsV2ImageToVideo", config=IMAGE, methods=encodes_image(257, 8))
special("WanAnimate", config={**IMAGE, "in_channels": 12}, methods=encodes_image(257, 8), call=lambda ask: {
    "pose_video": video(ask), "face_video": video(ask), "segment_frame_length": 5, "video": None,
})  # fmt: skip
special("HunyuanVideoFramepack", config={"pooled_projection_dim": 10}, methods=encodes_image(3, 10), call=fixed(
    latent_window_size=2
))  # fmt: skip
special("HunyuanVideo15 HunyuanVideo15ImageToVideo", config={"in_channels": 9}, call=signed(
    prompt_embeds_2=lambda ask: ask.text(10), prompt_embeds_mask_2=lambda ask: ask.mask()
), methods=encodes_image(3, 8))  # fmt: skip


def encodes(
    *makers: Callable[[Ask], Any], name: str = "encode_prompt"
) -> Callable[[Ask], dict[str, Callable[..., Any]]]:
    """In place of a text encoder, what it would give."""
    return lambda ask: {name: lambda *_, **__: tuple(make(ask) for make in makers)}


def prompts(ask: Ask) -> Arguments:
    """Texts, where embeddings cannot be given."""
    return {"prompt": ["a cat"] * ask.batch, "negative_prompt": [""] * ask.batch}


special("BriaFibo", call=prompts, methods=encodes(
    lambda ask: ask.text(12), lambda ask: 0.5 * ask.text(12), lambda ask: ask.text_positions(),
    lambda ask: ask.mask(torch.float32), lambda ask: ask.mask(torch.float32),
    lambda ask: [ask.text(6)] * 4, lambda ask: [0.5 * ask.text(6)] * 4,
))  # fmt: skip
SPECIALS["BriaFiboEditPipeline"] = SPECIALS["BriaFiboPipeline"]
special("SanaVideo SanaImageToVideo", parts={"vae": lambda: randomized(PARTS["AutoencoderKLWan"]())})
special("SanaSprint SanaSprintImg2Img", config={"guidance_embeds": True}, parts={"scheduler": of("SCMScheduler")},
        call=fixed(intermediate_timesteps=None))  # fmt: skip
special("QwenImageControlNetInpaint", parts={
    "controlnet": lambda: randomized(PARTS["QwenImageControlNetModel"](extra_condition_channels=4))
})  # fmt: skip
special("StableDiffusion3ControlNetInpainting", parts={
    "controlnet": lambda: randomized(PARTS["SD3ControlNetModel"](extra_conditioning_channels=1))
})  # fmt: skip
special("StableDiffusion3Inpaint", config={"in_channels": 16, "out_channels": 16}, parts={
    "vae": lambda: randomized(PARTS["AutoencoderKL"](latent_channels=16))
})  # fmt: skip
special("ZImageControlNet ZImageControlNetInpaint", call=signed(
    prompt_embeds=lambda ask: list(ask.text(12))
))  # fmt: skip
special("EasyAnimateInpaint", config={"in_channels": 9}, call=lambda ask: {
    "video": ask.noise(1, 3, 5, 8 * ask.size, 8 * ask.size).sigmoid(),
    "mask_video": ask.noise(1, 1, 5, 8 * ask.size, 8 * ask.size).sigmoid().round() * 255,
})  # fmt: skip


def square(area: int, ratio: float) -> tuple[int, int]:
    """In place of a million pixels."""
    return 64, 64


special("QwenImageEditPlus", globals={"calculate_dimensions": square})
special("QwenImageEdit QwenImageEditInpaint", globals={"calculate_dimensions": lambda *_: (64, 64, None)})
special("LTX2 LTX2Condition LTX2InContext LTX2HDR", parts={
    "connectors": Connectors, "vae": partial(Scales, 8, 8), "audio_vae": partial(Scales, 4, 128),
}, call=fixed(
    spatio_temporal_guidance_blocks=[1], stg_scale=0.0, modality_scale=1.0, audio_stg_scale=0.0,
    audio_modality_scale=1.0, use_cross_timestep=False,
), config={"audio_in_channels": 128, "audio_out_channels": 128})  # fmt: skip
special("LongCatImage", config={"in_channels": 64}, call=both(prompts, fixed(
    enable_prompt_rewrite=False, prompt_embeds=None, negative_prompt_embeds=None
)), methods=encodes(
    lambda ask: ask.text(12), lambda ask: ask.text_positions()
))  # fmt: skip
special("Cosmos2TextToImage", parts={
    "safety_checker": Harmless, "scheduler": of("FlowMatchEulerDiscreteScheduler", use_karras_sigmas=True)
})  # fmt: skip
SPECIALS["Cosmos2VideoToWorldPipeline"] = Special(
    {"in_channels": 5}, SPECIALS["Cosmos2TextToImagePipeline"].parts, fixed(video=None)
)


def packed_text(ask: Ask) -> Callable[..., tuple[Any, ...]]:
    """In place of Ideogram's text encoder: the text's tokens, then the image's."""
    packed = ZOO["Ideogram4Transformer2DModel"].arguments(ask)
    names = "encoder_hidden_states", "position_ids", "segment_ids", "indicator"
    return lambda **_: tuple(packed[name] for name in names)


special("Ideogram4", config={"in_channels": 16}, parts={
    "unconditional_transformer": lambda: randomized(
        of("Ideogram4Transformer2DModel", **ZOO["Ideogram4Transformer2DModel"].config)(in_channels=16)
    ),
}, call=both(prompts, lambda ask: {"guidance_schedule": None, "max_sequence_length": ask.tokens}), methods=lambda ask: {
    "encode_prompt": packed_text(ask),
})  # fmt: skip


class OmniGenProcessor:
    """In place of OmniGen's: a prompt and an empty one, as tokens."""

    max_image_size = 1024

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    def __call__(self, *_: Any, **__: Any) -> Any:
        twice = ZOO["OmniGenTransformer2DModel"].arguments(replace(self.ask, batch=2 * self.ask.batch))
        names = "input_ids", "attention_mask", "position_ids"
        return {name: twice[name] for name in names} | {"input_pixel_values": [], "input_image_sizes": {}}


special("OmniGen", call=both(prompts, fixed(max_input_image_size=1024)), methods=lambda ask: {
    "multimodal_processor": OmniGenProcessor(ask)
})  # fmt: skip


def projection() -> Any:
    """Of Stable Audio: seconds become embeddings."""
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    return StableAudioProjectionModel(12, 12, 0, 512)


def duration() -> Any:
    """The same of Stable Audio 3."""
    from diffusers.pipelines.stable_audio_3 import modeling_stable_audio_3

    return modeling_stable_audio_3.StableAudio3DurationEmbedder(output_dim=12, fourier_dim=8)


special("StableAudio", config={"global_states_input_dim": 24}, parts={
    "projection_model": lambda: randomized(projection())
}, call=fixed(audio_end_in_s=1.0))  # fmt: skip
special(
    "StableAudio3",
    config={"global_cond_dim": 12},
    parts={
        "duration_embedder": lambda: randomized(duration()),
        "vae": partial(Scales, 8, 4),
    },
    call=lambda ask: {
        "duration": 1.0,
        "encoder_attention_mask": ask.mask(),
        "negative_encoder_attention_mask": ask.mask(),
    },
)
special("QwenImage21", config={"in_channels": 64, "out_channels": 64}, parts={"processor": Chat}, methods=encodes(
    lambda ask: ask.text(12), lambda ask: None, lambda ask: torch.zeros(ask.batch, ask.tokens, dtype=torch.bool)
), call=fixed(image=None, use_kv_cache=False))  # fmt: skip
special("ConsisID", config={"in_channels": 8})
special("ZImageControlNetInpaint", call=signed(prompt_embeds=lambda ask: list(ask.text(12))), parts={
    "controlnet": lambda: randomized(PARTS["ZImageControlNetModel"](control_in_dim=9))
})  # fmt: skip
special("HunyuanImageRefiner", config={
    "in_channels": 16, "out_channels": 8, "patch_size": (1, 1, 1), "rope_axes_dim": (4, 6, 6), "guidance_embeds": True
})  # fmt: skip
special("QwenImageLayered", config={"use_layer3d_rope": True, "use_additional_t_cond": True}, parts={
    "text_encoder": StandIn
}, call=both(prompts, fixed(
    layers=1, prompt_embeds=None, negative_prompt_embeds=None, output_type="pt"
)), methods=encodes(
    lambda ask: ask.text(12), lambda ask: ask.mask()
), globals={"calculate_dimensions": square})  # fmt: skip
special("LongCatAudioDiT", parts={"vae": partial(Scales, 8, 4)}, call=lambda ask: {
    "prompt": ["rain"] * ask.batch, "negative_prompt": ["noise"] * ask.batch, "audio_duration_s": 2.0
}, methods=encodes(lambda ask: ask.text(12), lambda ask: torch.full((ask.batch,), ask.tokens)))  # fmt: skip
special("HeliosPyramid", call=fixed(image=None, video=None), parts={
    "scheduler": of("HeliosScheduler", gamma=0.2)
})  # fmt: skip
special("CosmosVideoToWorld", config={"in_channels": 5}, call=fixed(video=None, num_frames=17), parts={
    "safety_checker": Harmless, "vae": lambda: randomized(of(
        "AutoencoderKLCosmos", latent_channels=4, encoder_block_out_channels=(8,) * 4,
        decode_block_out_channels=(8,) * 4, num_layers=1, attention_resolutions=(), latents_mean=None, latents_std=None,
    )()),
})  # fmt: skip
special("LongCatImageEdit", config={"in_channels": 64}, parts={
    "text_processor": lambda: Chat(), "vae": lambda: randomized(PARTS["AutoencoderKL"](latent_channels=16)),
}, call=both(prompts, fixed(prompt_embeds=None, negative_prompt_embeds=None)), methods=encodes(
    lambda ask: ask.text(12), lambda ask: ask.text_positions()
), globals={"calculate_dimensions": square})  # fmt: skip
special("AceStep", parts={"condition_encoder": Conditions}, call=both(prompts, fixed(
    audio_duration=2.0
)), methods=encodes(
    lambda ask: ask.text(16), lambda ask: ask.mask(), lambda ask: ask.text(16), lambda ask: ask.mask()
))  # fmt: skip
special("LTXImageToVideo LTXCondition", call=fixed(num_frames=17))  # a single latent frame would be the known one
TOO_LARGE = {"JoyImageEditPipeline": "it makes a million pixels, whatever it is asked for"}
