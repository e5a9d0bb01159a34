"""The built-in rows, one table. Nothing heavy is imported here: the code behind a row is named as text."""

from __future__ import annotations

from typing import Any

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.registry import Parameter, Row, add

XIE = "Xie, Xiong, Pu 2017, arXiv:1703.01827"
WU_2021 = "Wu, Johnson 2021, arXiv:2105.07576"
HE_2016 = "He, Zhang, Ren, Sun 2016, arXiv:1512.03385"
BANSAL = "Bansal, Chen, Wang 2018, arXiv:1810.09102"


def _check_cifar_depth(config: TrialConfig) -> tuple[str, str] | None:
    depth = config.depth
    if depth >= 8 and depth % 6 == 2:
        return None
    below = max(8, depth - (depth - 2) % 6)
    nearest = sorted({below, below + 6})
    return "depth", (
        f"depth must be 6n+2 with n >= 1 for the model '{config.model}', but got {depth}. "
        f"Nearest: {' and '.join(map(str, nearest))}"
    )


def _check_cifar(config: TrialConfig) -> tuple[str, str] | None:
    if config.shortcut == "projection":
        return "shortcut", (
            "shortcut must be none or identity for the model 'cifar', whose residual nets have as many parameters as "
            "the plain ones, but got projection"
        )
    return _check_cifar_depth(config)


IMAGENET_DEPTHS = (18, 34, 44, 50, 101, 152)
IMAGENET_MIN_SIDE = 64


def _check_imagenet(config: TrialConfig) -> tuple[str, str] | None:
    if config.depth not in IMAGENET_DEPTHS:
        nearest = min(IMAGENET_DEPTHS, key=lambda depth: abs(depth - config.depth))
        return "depth", (
            "depth must be 18, 34, 44 (two convolutions a block), 50, 101 or 152 (bottlenecks) for the model "
            f"'imagenet', but got {config.depth}. Nearest: {nearest}"
        )
    shape = config.row("dataset").image_shape
    side = config.image_size or (min(shape[1:]) if shape and len(shape) == 3 else None)
    if side is not None and side < IMAGENET_MIN_SIDE:
        return "image_size" if config.image_size else "model", (
            f"the model 'imagenet' divides images by 32, so they must be at least {IMAGENET_MIN_SIDE}×"
            f"{IMAGENET_MIN_SIDE}, but those of {config.dataset} are {side}×{side}. Nets for small images: cifar, dirac"
        )
    return None


def _check_dirac(config: TrialConfig) -> tuple[str, str] | None:
    if config.shortcut != "none":
        return "shortcut", f"shortcut must be none for the model 'dirac', a plain net, but got {config.shortcut}"
    if config.norm == "weight":
        return "norm", "norm must not be weight for the model 'dirac', which normalises its filters itself"
    return _check_cifar_depth(config)


def _float(name: str, default: float, summary: str, low: float = 0, high: float | None = None) -> Parameter:
    return Parameter(name=name, type="float", default=default, summary=summary, low=low, high=high)


def _int(name: str, default: int, summary: str, low: int = 1) -> Parameter:
    return Parameter(name=name, type="int", default=default, summary=summary, low=low)


def _choice(name: str, default: str, summary: str, choices: tuple[str, ...]) -> Parameter:
    return Parameter(name=name, type="str", default=default, summary=summary, choices=choices)


_MOMENTUM = _float("momentum", 0.9, "momentum", high=0.999999)
_BETA1 = _float("beta1", 0.9, "decay of the first moment", high=0.999999)
_BETA2 = _float("beta2", 0.999, "decay of the second moment", high=0.999999)
_WEIGHT_DECAY = _float("weight_decay", 1e-4, "weight of the squared l2 norm")
_ORTHO_LAYERS = _choice(
    "ortho_layers", "all", "layers that are kept orthonormal; not_first leaves out the first convolution",
    ("all", "conv", "fc", "not_first"),
)  # fmt: skip
_ORTHO_SCHEDULE = _choice(
    "ortho_schedule", "constant", "λ over training", ("constant", "bansal", "cosine", "piecewise")
)
_ORTHO_WEIGHT = _float("ortho_weight", 1e-4, "weight λ of the orthonormality regularizer")
_ORTHO = (
    _ORTHO_WEIGHT,
    _ORTHO_SCHEDULE,
    _choice(
        "ortho_coupling", "coupled", "coupled goes through the optimizer; decoupled is subtracted after its step",
        ("coupled", "decoupled"),
    ),
    _ORTHO_LAYERS,
)  # fmt: skip
_WINDOW = (
    Parameter(
        name="modulation_window", type="window", default=(0.0, 1.0),
        summary="[start, end) of modulation as fractions of training",
    ),
    Parameter(
        name="modulation_window_steps", type="steps", default=None, optional=True,
        summary="[start, end) of modulation in steps, in place of modulation_window",
    ),
)  # fmt: skip
_MODULATION = (
    _float("modulation_tolerance", 0.0, "modulate where the ratio of mean square errors exceeds this; 0 always does"),
    *_WINDOW,
    _choice("modulation_site", "conv", "where errors are measured: at the outputs of", ("conv", "norm", "block")),
    _int("modulation_every_k", 1, "measure and modulate at every k-th of them, counted from the input"),
    _choice("modulation_side", "both", "damp scales errors down only, boost up only", ("both", "damp", "boost")),
    Parameter(
        name="modulation_clamp", type="float", default=None, optional=True, low=1,
        summary="limit of a point's factor and of its inverse; null sets none",
    ),
    _float("modulation_ema", 0.0, "decay of the mean of ln(ratio) over steps; 0 takes each step alone", high=0.9999),
    _choice(
        "modulation_form", "auto",
        "backward rescales errors, post_hoc finished gradients (cheaper; equal without shortcuts, to 200 layers); "
        "auto chooses",
        ("auto", "backward", "post_hoc"),
    ),
)  # fmt: skip


POST_HOC_MAX_DEPTH = 200
"""The squares of unmodulated errors leave the range of float32 in plain nets of about 300 layers."""


def _post_hoc_limit(config: TrialConfig) -> str:
    """Return why factors of finished gradients are not those of the errors in a net; "" where they are."""
    if config.shortcut != "none":
        return (
            "holds in nets without shortcuts only, because errors flow around the layers, "
            f"but got shortcut '{config.shortcut}'"
        )
    if config.depth > POST_HOC_MAX_DEPTH:
        return (
            f"holds up to depth {POST_HOC_MAX_DEPTH}, because the unmodulated errors of deeper plain nets leave the "
            f"range of float32 when they are squared, but got depth {config.depth}"
        )
    return ""


def _check_modulation(config: TrialConfig) -> tuple[str, str] | None:
    if config.options["modulation_form"] != "post_hoc":
        return None
    reason = _post_hoc_limit(config)
    if not reason and config.options["modulation_site"] == "block":
        reason = "knows the sites conv and norm, but got modulation_site 'block'"
    message = f"modulation_form 'post_hoc' {reason}. Available here: auto, backward"
    return ("modulation_form", message) if reason else None


def _check_profile(config: TrialConfig) -> tuple[str, str] | None:
    reason = _post_hoc_limit(config)
    return ("modulation", f"modulation 'layer_profile' {reason}") if reason else None


def _check_statistics(config: TrialConfig) -> tuple[str, str] | None:
    if config.statistics == "running":
        return None
    if config.options["frozen_statistics"]:
        reason = "weights that were trained with frozen statistics are right with these only"
        return "frozen_statistics", f"frozen_statistics needs statistics 'running': {reason}"
    if config.options["precise_batches"]:
        reason = "'estimated' estimates them anew at every evaluation"
        return "precise_batches", f"precise_batches needs statistics 'running': {reason}"
    return None


_BATCH_NORM = (
    _float(
        "frozen_statistics", 0.0, "last fraction of training in which the running statistics are kept and used", high=1
    ),
    Parameter(
        name="precise_batches", type="int", default=0, low=0,
        summary="training batches over which the running statistics are estimated anew at the end; 0 keeps them",
    ),
)  # fmt: skip
_RENORM = (
    _float("renorm_r_max", 3.0, "limit of the correction of the scale, in both directions", low=1),
    _float("renorm_d_max", 5.0, "limit of the correction of the mean, in running standard deviations"),
    Parameter(
        name="renorm_window", type="window", default=(0.04, 0.3),
        summary="fractions of training between which both limits rise linearly from those of batch norm",
    ),
)  # fmt: skip


def _row(*, target: str, sources: str | None = None, **given: Any) -> Row:
    """Return a row whose code is named within this package."""
    package = __name__.rpartition(".")[0]
    return Row(target=f"{package}.{target}", sources=sources and f"{package}.{sources}", **given)


_ROWS = (
    # Data sets.
    _row(kind="dataset", name="digits", target="data.digits:load", image_shape=(1, 8, 8),
        summary="1,797 handwritten digits, 8×8 grey, embedded in scikit-learn",
        source="Alpaydin, Kaynak 1998, UCI Optical Recognition of Handwritten Digits"),
    _row(kind="dataset", name="fashion_mnist", target="data.fashion_mnist:load",
        sources="data.fashion_mnist:sources", image_shape=(1, 28, 28),
        summary="70,000 clothes, 28×28 grey", source="Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747"),
    _row(kind="dataset", name="cifar10", target="data.cifar:load_cifar10", image_shape=(3, 32, 32),
        sources="data.cifar:sources_cifar10",
        summary="60,000 photos of ten classes, 32×32 RGB", source="Krizhevsky 2009"),
    _row(kind="dataset", name="cifar100", target="data.cifar:load_cifar100", image_shape=(3, 32, 32),
        sources="data.cifar:sources_cifar100",
        summary="60,000 photos of a hundred classes, 32×32 RGB", source="Krizhevsky 2009"),
    _row(kind="dataset", name="image_folder", target="data.image_folder:load", image_shape=(3, 224, 224),
        sources="data.image_folder:sources",
        summary="image files in train/<class>/ and val/<class>/ (the test set), such as ImageNet's",
        source="Russakovsky et al. 2015, arXiv:1409.0575", version=2),
    # Augmentation.
    _row(kind="augment", name="none", target="data.augment:identity", summary="no augmentation"),
    _row(kind="augment", name="crop_flip", target="data.augment:crop_flip", needs_images=True,
        summary="pad by an eighth of the size on each side, crop at random, flip at random", source=HE_2016),
    _row(kind="augment", name="resized_crop_flip", target="data.augment:resized_crop_flip", needs_images=True,
        summary="random part of 8% to 100% of the area, resized, flipped at random: ImageNet's usual augmentation",
        source="Szegedy et al. 2015, arXiv:1409.4842"),
    # Nets.
    _row(kind="model", name="cifar", target="models.cifar:CifarNet.build", needs_images=True, check=_check_cifar,
        summary="6n+2 layers in three stages, plain or with parameter-free shortcuts", source=HE_2016),
    _row(kind="model", name="dirac", target="models.cifar:CifarNet.build_dirac", needs_images=True, check=_check_dirac,
        summary="the plain 6n+2 net with kernels diag(a)·δ + diag(b)·w/‖w‖ above the stem",
        source="Zagoruyko, Komodakis 2017, arXiv:1706.00388"),
    _row(kind="model", name="imagenet", target="models.imagenet:ImageNetNet.build", needs_images=True,
        check=_check_imagenet,
        summary="18, 34 or 44 layers, or 50, 101 or 152 in bottlenecks, plain or residual; published with width 64",
        source=HE_2016),
    # What follows a convolution, or is done to its kernel.
    _row(kind="norm", name="batch", target="models.norms:BATCH", parameters=_BATCH_NORM,
        check=_check_statistics, summary="batch norm", source="Ioffe, Szegedy 2015, arXiv:1502.03167"),
    _row(kind="norm", name="none", target="models.norms:NONE", summary="a bias only"),
    _row(kind="norm", name="weight", target="models.norms:WEIGHT",
        summary="weight norm: kernel g·w/‖w‖ for each filter, and a bias",
        source="Salimans, Kingma 2016, arXiv:1602.07868"),
    _row(kind="norm", name="batch_renorm", target="models.norms:BATCH_RENORM", check=_check_statistics,
        summary="batch renormalisation", source="Ioffe 2017, arXiv:1702.03275", parameters=(*_BATCH_NORM, *_RENORM)),
    # The statistics that batch norm is evaluated with.
    _row(kind="statistics", name="estimated", target="training.statistics:estimated",
        summary="estimated anew from training images for the weights that are evaluated, at every evaluation",
        source=WU_2021, parameters=(_int("statistics_images", 256, "training images, drawn anew each time", low=2),)),
    _row(kind="statistics", name="running", target="training.statistics:running",
        summary="the exponential averages that training keeps", source="Ioffe, Szegedy 2015, arXiv:1502.03167"),
    # Initialisations.
    _row(kind="init", name="he", target="methods.inits:he",
        summary="normal with variance 2/fan-in", source="He, Zhang, Ren, Sun 2015, arXiv:1502.01852"),
    _row(kind="init", name="orthonormal", target="methods.inits:orthonormal",
        summary="orthonormal filters of unit norm, in groups where they outnumber their inputs", source=XIE),
    _row(kind="init", name="xavier", target="methods.inits:xavier",
        summary="uniform with variance 2/(fan-in + fan-out)", source="Glorot, Bengio 2010, AISTATS"),
    _row(kind="init", name="delta_orthogonal", target="methods.inits:delta_orthogonal",
        summary="kernels with an orthogonal centre and zeros around it", source="Xiao et al. 2018, arXiv:1806.05393"),
    _row(kind="init", name="dirac", target="methods.inits:dirac",
        summary="kernels that pass their channels through; he in the fully connected layer",
        source="Zagoruyko, Komodakis 2017, arXiv:1706.00388"),
    _row(kind="init", name="own", target="methods.inits:own",
        summary="what the model's own code does; the default of models of your own"),
    # Regularizers.
    _row(kind="regularizer", name="none", target="methods.regularizers:NoRegularizer",
        summary="no regularizer"),
    _row(kind="regularizer", name="l2", target="methods.regularizers:L2",
        summary="weight decay; decoupled in adamw and muon, after normalisation in novograd",
        parameters=(_WEIGHT_DECAY,)),
    _row(kind="regularizer", name="orthonormal", target="methods.regularizers:Orthonormal",
        summary="λ/2·‖WᵀW − I‖² in place of weight decay", source=XIE, parameters=_ORTHO, version=2),
    _row(kind="regularizer", name="orthonormal_semi_implicit", target="methods.constraints:SemiImplicit",
        summary="the same penalty as a decoupled step that cannot diverge",
        parameters=(_ORTHO_WEIGHT, _ORTHO_SCHEDULE, _ORTHO_LAYERS)),
    _row(kind="regularizer", name="double_sided", target="methods.orthogonality:DoubleSided", source=BANSAL,
        summary="λ/2·(‖WᵀW − I‖² + ‖WWᵀ − I‖²); its gradient is twice the one-sided", parameters=_ORTHO),
    _row(kind="regularizer", name="mutual_coherence", target="methods.orthogonality:MutualCoherence",
        summary="λ times the largest entry of |WᵀW − I|", source=BANSAL, parameters=_ORTHO),
    _row(kind="regularizer", name="srip", target="methods.orthogonality:SpectralIsometry", source=BANSAL,
        summary="λ times the spectral norm of WᵀW − I",
        parameters=(*_ORTHO, _int("srip_iterations", 2, "power iterations a step"))),
    _row(kind="regularizer", name="ocnn", target="methods.orthogonality:Convolutional",
        summary="λ/2·‖conv(K, K) − I‖²: orthogonality of the convolution itself",
        source="Wang, Chen, Chakraborty, Yu 2020, arXiv:1911.12207", parameters=_ORTHO),
    _row(kind="regularizer", name="diagonal", target="methods.orthogonality:Diagonal",
        summary="the diagonal of WᵀW − I only: control of the filters' norms", parameters=_ORTHO),
    _row(kind="regularizer", name="off_diagonal", target="methods.orthogonality:OffDiagonal",
        summary="all but the diagonal of WᵀW − I: decorrelated filters of any norm", parameters=_ORTHO),
    _row(kind="regularizer", name="norm_projection", target="methods.constraints:NormProjection",
        summary="every filter is scaled to unit norm after every step", parameters=(_ORTHO_LAYERS,)),
    _row(kind="regularizer", name="retraction", target="methods.constraints:Retraction",
        summary="the nearest orthonormal weights every k steps, by Newton-Schulz iteration",
        source="Huang et al. 2020, arXiv:2004.00917",
        parameters=(
            _int("retraction_every", 1, "steps between retractions"),
            _int("retraction_iterations", 8, "Newton-Schulz iterations of one retraction"),
            _ORTHO_LAYERS,
        )),
    # Backward error modulation, named by the reference that a layer's error is compared with.
    _row(kind="modulation", name="none", target="methods.modulation:none", summary="no modulation"),
    _row(kind="modulation", name="previous", target="methods.modulation:previous",
        summary="compare with the layer above", source=XIE, parameters=_MODULATION,
        check=_check_modulation, version=2),
    _row(kind="modulation", name="anchor", target="methods.modulation:anchor",
        summary="compare with the layer that was modulated last", source=XIE, parameters=_MODULATION,
        check=_check_modulation, version=2),
    _row(kind="modulation", name="top", target="methods.modulation:top",
        summary="compare with the topmost convolution", source=XIE, parameters=_MODULATION,
        check=_check_modulation, version=2),
    # Relatives of modulation: they rescale each layer's gradient before the optimizer.
    _row(kind="modulation", name="layer_clip", target="methods.layerwise:Clip",
        summary="scale each layer's gradient down to clip_norm",
        source="Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063",
        parameters=(_float("clip_norm", 1.0, "largest norm of a layer's gradient"), *_WINDOW)),
    _row(kind="modulation", name="layer_normalize", target="methods.layerwise:Normalize",
        summary="scale each layer's gradient to norm 1", source="Yu et al. 2017, arXiv:1707.04822", parameters=_WINDOW),
    _row(kind="modulation", name="layer_profile", target="methods.layerwise:Profile", check=_check_profile,
        summary="a fixed learning rate for each layer, measured in the first step of the window", parameters=_WINDOW),
    # Optimizers.
    _row(kind="optimizer", name="sgd", target="training.optimizers:sgd", parameters=(_MOMENTUM,),
        summary="SGD with momentum", source="Polyak 1964"),
    _row(kind="optimizer", name="nesterov", target="training.optimizers:nesterov", parameters=(_MOMENTUM,),
        summary="SGD with Nesterov momentum", source="Sutskever et al. 2013, ICML"),
    _row(kind="optimizer", name="adagrad", target="training.optimizers:adagrad",
        summary="AdaGrad", source="Duchi, Hazan, Singer 2011, JMLR"),
    _row(kind="optimizer", name="adadelta", target="training.optimizers:adadelta",
        summary="AdaDelta", source="Zeiler 2012, arXiv:1212.5701",
        parameters=(_float("adadelta_rho", 0.9, "decay of the running averages", high=0.999999),)),
    _row(kind="optimizer", name="adam", target="training.optimizers:adam", parameters=(_BETA1, _BETA2),
        summary="Adam", source="Kingma, Ba 2014, arXiv:1412.6980"),
    _row(kind="optimizer", name="adamw", target="training.optimizers:adamw", parameters=(_BETA1, _BETA2),
        summary="Adam with decoupled weight decay", source="Loshchilov, Hutter 2017, arXiv:1711.05101"),
    _row(kind="optimizer", name="rmsprop", target="training.optimizers:rmsprop",
        summary="RMSProp", source="Tieleman, Hinton 2012",
        parameters=(_float("rmsprop_alpha", 0.99, "decay of the squared gradient", high=0.999999),)),
    _row(kind="optimizer", name="lars", target="training.layerwise_optimizers:lars",
        summary="SGD whose step is a fixed share of each weight's norm",
        source="You, Gitman, Ginsburg 2017, arXiv:1708.03888",
        parameters=(_MOMENTUM, _float("lars_eta", 1e-3, "share η of a weight's norm that lr = 1 moves it by"))),
    _row(kind="optimizer", name="novograd", target="training.layerwise_optimizers:novograd",
        summary="gradients normalised by one second moment a tensor", source="Ginsburg et al. 2019, arXiv:1905.11286",
        parameters=(_float("novograd_beta1", 0.95, "decay of the first moment", high=0.999999),
                    _float("novograd_beta2", 0.98, "decay of the second moment", high=0.999999))),
    _row(kind="optimizer", name="muon", target="training.layerwise_optimizers:muon",
        summary="orthogonalised momentum for kernels, AdamW for the rest; lr of AdamW's size",
        source="Jordan 2024, kellerjordan.github.io/posts/muon",
        parameters=(_float("muon_momentum", 0.95, "momentum of the kernels", high=0.999999),)),
    # Learning rate schedules: factor of the peak learning rate as a function of the progress in [0, 1).
    _row(kind="lr_schedule", name="constant", target="training.lr_schedules:constant",
        summary="the peak throughout"),
    _row(kind="lr_schedule", name="step", target="training.lr_schedules:step",
        summary="÷10 at half and at three quarters of training", source=HE_2016),
    _row(kind="lr_schedule", name="step_thirds", target="training.lr_schedules:step_thirds",
        summary="÷10 at one third and at two thirds of training, as usual for ImageNet", source=HE_2016),
    _row(kind="lr_schedule", name="cosine", target="training.lr_schedules:cosine",
        summary="half a cosine from the peak to zero", source="Loshchilov, Hutter 2016, arXiv:1608.03983"),
    _row(kind="lr_schedule", name="one_cycle", target="training.lr_schedules:one_cycle",
        summary="cosine up from 1/25 of the peak in the first 30%, then cosine to nearly zero",
        source="Smith, Topin 2017, arXiv:1708.07120"),
    # Training losses.
    _row(kind="loss", name="cross_entropy", target="training.losses:cross_entropy", summary="−ln p of the label"),
    _row(kind="loss", name="label_smoothing", target="training.losses:label_smoothing",
        summary="cross-entropy with a share of every label spread evenly over all classes",
        source="Szegedy et al. 2016, arXiv:1512.00567",
        parameters=(_float("label_smoothing", 0.1, "share ε of a label that is spread", high=1),)),
)  # fmt: skip

for _each in _ROWS:
    add(_each)
