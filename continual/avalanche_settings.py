"""Avalanche's strategies in a recipe: the arguments of those that are wired, and why the others are not."""

from pydantic import ConfigDict, Field

from continual.settings_base import Settings


class Arguments(Settings):
    """Arguments of a method; `lambda` is a word of Python, so its field has another name."""

    model_config = ConfigDict(serialize_by_alias=True)


class Ewc(Arguments):
    lambda_: float = Field(100.0, alias="lambda", ge=0)
    """Weight of the penalty."""

    importance_samples: int | None = Field(None, ge=1)
    """Rows of a task whose gradients make its importance; null: all."""


class OnlineEwc(Ewc):
    decay_factor: float = Field(0.95, ge=0, le=1)
    """What is left of the older importance after each task."""


class SynapticIntelligence(Arguments):
    lambda_: float = Field(1000.0, alias="lambda", ge=0)
    """Weight of the penalty; an importance is at most 0.001."""

    eps: float = Field(1e-7, gt=0)
    """Keeps the importance finite where a weight has hardly moved."""


class Mas(Arguments):
    lambda_: float = Field(0.01, alias="lambda", ge=0)
    """Weight of the penalty."""

    alpha: float = Field(0.5, ge=0, le=1)
    """Share of the older importance in the new one."""

    importance_samples: int | None = Field(None, ge=1)
    """Rows of a task whose gradients make its importance; null: all."""


class RWalk(Arguments):
    lambda_: float = Field(10.0, alias="lambda", ge=0)
    """Weight of the penalty; an importance is at most 2."""

    alpha: float = Field(0.9, ge=0, le=1)
    """Share of the newest step in the moving average of squared gradients."""

    delta_t: int = Field(10, ge=1)
    """Steps between two updates of the scores."""


class Lwf(Arguments):
    alpha: float = Field(1.0, ge=0)
    """Weight of the distillation loss."""

    temperature: float = Field(2.0, gt=0)
    """Both distributions are softened by it."""


class Agem(Arguments):
    patterns_per_experience: int = Field(256, ge=1)
    """Real rows kept of each task."""

    sample_size: int = Field(64, ge=1)
    """Rows drawn at each step, as many of each earlier task."""


class Replay(Arguments):
    mem_size: int = Field(200, ge=1)
    """Real rows kept of all tasks together."""


_IMAGES = "takes features from a named layer of a classifier; a language model has no such head"
_CLASSES = "needs one class label for each sample"
_SHAPE = "needs samples that are tensors of one shape"

REFUSED: dict[str, str] = {
    "gem": f"{_SHAPE}; `agem` is its cheaper form",
    "gss": _SHAPE,
    "gss_greedy": _SHAPE,
    "mer": f"{_SHAPE}, and a training loop of its own",
    "lamaml": f"{_SHAPE}, and a training loop of its own",
    "der": "keeps one row of logits for each sample; here each token has one. `rehearsal.distill` is near to it",
    "mir": f"{_CLASSES}, and a loader of its own",
    "gdumb": f"{_CLASSES}, and trains anew from its memory alone",
    "er_ace": f"{_CLASSES}, and a loader of its own",
    "er_aml": f"{_CLASSES}, and a loader of its own",
    "class_balanced_replay": f"{_CLASSES}; `replay` draws from all rows alike",
    "cwr": f"{_CLASSES}, and copies rows of a classifier's last layer",
    "cwr_star": f"{_CLASSES}, and copies rows of a classifier's last layer",
    "ar1": "is made for one image network (MobileNet); it joins `si` and latent replay",
    "generative_replay": "has a second network draw images; `rehearsal: {}` is its form for text",
    "ae_training": "trains an autoencoder of images",
    "vae_training": "trains an autoencoder of images",
    "expert_gate": "chooses among image networks by autoencoders; `teach: specialists` keeps an adapter for each task",
    "lfl": _IMAGES,
    "feature_distillation": _IMAGES,
    "feature_replay": _IMAGES,
    "rar": f"{_IMAGES}, and it disturbs pixels",
    "icarl": f"{_IMAGES}, and it answers by nearest class mean",
    "ncm": f"{_IMAGES}, and it answers by nearest class mean",
    "fecam": f"{_IMAGES}, and it answers by nearest class mean",
    "bic": f"{_CLASSES}, and corrects the bias of a classifier's last layer",
    "cope": f"{_IMAGES}, and it answers by nearest prototype",
    "scr": f"{_IMAGES}, and it answers by nearest class mean",
    "slda": f"{_IMAGES}, and it answers by discriminant analysis",
    "packnet": "needs its own network with a mask for each task and asks for the task at test time",
    "pnn": "needs its own network that grows by a column for each task; `teach: specialists` is near to it",
    "l2p": "needs a vision transformer of its own with a pool of prompts",
    "object_detection": "is made for boxes in images",
    "naive": "is an arm with `teach: sequential` and nothing else",
    "cumulative": "reads all earlier rows again; `teach: multitask` is the upper bound here",
    "joint_training": "is an arm with `teach: multitask`",
    "from_scratch": "trains a new model for each task, which for an adapter is an arm with `teach: specialists`",
    "online_naive": "has no second epoch: an arm with `teach: sequential` and `training: {num_train_epochs: 1}`",
}
"""Strategies of Avalanche 0.6 that cannot teach a language model, or need no method here: name -> why."""
