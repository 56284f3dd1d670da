"""A whole recipe, what its sections must have in common, and the list of all keys."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from lcprune.recipe.schema.critics import CriticsConfig
from lcprune.recipe.schema.data import DataConfig
from lcprune.recipe.schema.model import PLACES, ModelConfig
from lcprune.recipe.schema.section import Section
from lcprune.recipe.schema.train import LoggingConfig, TrainConfig
from lcprune.specs import METHODS


class Recipe(Section):
    """A whole recipe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the recipe; run folders are called after it."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    critics: CriticsConfig = CriticsConfig()
    train: TrainConfig
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="before")
    @classmethod
    def _critics_have_places(cls, values: Any) -> Any:
        """Fills in ``critics.after`` where it is left out."""
        if not isinstance(values, dict):
            return values
        model, critics = values.get("model", {}), values.get("critics", {})
        if not isinstance(model, dict) or not isinstance(critics, dict) or critics.get("after") is not None:
            return values  # complete, or refused for what is wrong with it
        trunk, cuts, groups = model.get("trunk", "vgg"), model.get("cuts", "auto"), model.get("groups", 4)
        if trunk in list(PLACES):
            layers = model.get("layers") if trunk == "msdnet" else None
            inside = [place for place in PLACES[trunk] if not isinstance(layers, int) or place < layers]
            return {**values, "critics": {**critics, "after": tuple(inside)}}
        count = len(cuts) if isinstance(cuts, list | tuple) else groups - 1 if isinstance(groups, int) else 0
        return {**values, "critics": {**critics, "after": tuple(range(1, count + 1))}}

    @model_validator(mode="after")
    def _a_single_sub_model_exists(self) -> "Recipe":
        alone, count = self.model.submodel, len(self.critics.after or ())
        if alone is None:
            return self
        if METHODS[self.train.method].side is not None:
            raise ValueError(
                f"model.submodel is one network with one exit, which train.method {self.train.method} cannot train: "
                "set train.method: backprop, or leave model.submodel out"
            )
        if alone > count:
            raise ValueError(
                f"model.submodel is {alone} but critics.after makes {count} sub-models: "
                f"write a number from 1 to {count}, or leave model.submodel out for the whole network"
                if count
                else "model.submodel needs a critic, but critics.after is empty: leave critics.after out"
            )
        return self

    @model_validator(mode="after")
    def _several_sizes_are_learned_jointly(self) -> "Recipe":
        if not self.data.sizes:
            return self
        if self.train.method != "deep_supervision":
            raise ValueError(
                f"several sizes in data.image_size are learned jointly, which train.method {self.train.method} does "
                "not do: set train.method: deep_supervision, or write one size"
            )
        apart = {
            "model.whiten": self.model.whiten,
            "train.freeze": bool(self.train.frozen_groups),
            "train.critic_warmup": self.train.critic_warmup > 0,
            "train.layer_decay": self.train.layer_decay != 1,
            "critics.weight_schedule": self.critics.weight_schedule == "decay",
        }
        if keys := [key for key, is_set in apart.items() if is_set]:
            raise ValueError(
                f"{keys[0]} is not for several sizes in data.image_size: leave {keys[0]} out, or write one size"
            )
        return self

    @model_validator(mode="after")
    def _frozen_groups_exist(self) -> "Recipe":
        count = self.model.submodel or len(self.critics.after or ()) + 1
        frozen = self.train.frozen_groups
        if outside := [number for number in frozen if number > count]:
            raise ValueError(
                f"train.freeze names group {outside[-1]} but there are {count}: write numbers from 1 to {count}"
            )
        if not METHODS[self.train.method].has_early_exits:
            if len(set(frozen)) == count:
                raise ValueError("train.freeze leaves nothing to learn: leave out a group")
            if self.train.critic_warmup:
                raise ValueError(
                    f"train.critic_warmup waits for critics, but train.method {self.train.method} has none: "
                    "leave critic_warmup out"
                )
        return self

    @model_validator(mode="after")
    def _a_condition_is_one_class(self) -> "Recipe":
        shares = self.data.mixup or self.data.cutmix or self.data.balance == "loss"
        if self.critics.condition_on_label and METHODS[self.train.method].side == "synthesizers" and shares:
            raise ValueError(
                "critics.condition_on_label needs one class for each image, but data.mixup, data.cutmix and "
                "data.balance: loss make probabilities of classes: drop one of them"
            )
        return self

    @model_validator(mode="after")
    def _recorded_steps_are_alike(self) -> "Recipe":
        weights_decay = METHODS[self.train.method].decays_weights and self.critics.weight_schedule == "decay"
        varying = {
            "train.critic_warmup": self.train.critic_warmup > 0,
            "train.layer_decay": self.train.layer_decay != 1,
            "critics.weight_schedule": weights_decay,
            "critics.update_every": self.critics.update_every > 1,
        }
        if self.train.cuda_graph and (keys := [key for key, varies in varying.items() if varies]):
            raise ValueError(f"train.cuda_graph replays one step, but {keys[0]} makes steps differ: drop one of them")
        return self


def sections() -> dict[str, list[str]]:
    """Every key of the top level, and the keys inside it where it is a section."""
    models = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return {
        name: list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
        for name, model in models.items()
    }


def known_keys() -> list[str]:
    """Every key with its section, such as ``train.lr``."""
    return [f"{section}.{key}" if key else section for section, keys in sections().items() for key in keys or [""]]
