"""What every group of settings is."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings: cannot be changed after it was checked, refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
