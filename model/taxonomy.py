"""The taxonomy: the targets, their labels and what each means, as data (`data/taxonomy.yaml`)."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import PolicyError

DATA = Path(__file__).resolve().parent.parent / "data"
T = TypeVar("T", bound=BaseModel)
LARGEST_FILE = 1 << 20


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Data):
    """One answer to a target: its definition, and whether missing it is the error to avoid (its recall is protected)."""

    definition: str
    protect: bool = False


class TargetDefinition(_Data):
    question: str
    labels: dict[str, Label] = Field(min_length=2)


class Taxonomy(_Data):
    format: Literal[1]
    targets: dict[str, TargetDefinition]
    languages: dict[Literal["core", "further"], tuple[str, ...]]

    def protected(self, target: str) -> tuple[str, ...]:
        """The labels of `target` whose recall comes first."""
        defined = self.targets.get(target)
        return tuple(name for name, label in defined.labels.items() if label.protect) if defined else ()


def read_yaml(path: Path, kind: type[T]) -> T:
    """Read and validate a YAML file as `kind`.

    Raises PolicyError with the file, the field and what was expected.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise PolicyError(f"{path}: larger than {LARGEST_FILE} bytes, so not a file of this kind")
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return kind.model_validate(content)
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PolicyError(f"{path}: {where or 'the file'}: {first['msg']}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # PyYAML lets what Python says of a date or a number through
        raise PolicyError(f"{path}: not valid YAML: {error}") from error


def load_taxonomy(path: Path | None = None) -> Taxonomy:
    """The taxonomy at `path`, by default the one beside the code."""
    return read_yaml(path or DATA / "taxonomy.yaml", Taxonomy)
