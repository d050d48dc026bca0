"""What one run is made from, frozen when it starts: profile, variables, the server's facts, template texts.

Owns the recipe's form in the run's record and how it is rendered for a machine. What is rendered an hour later, after
the configuration has changed, is what `plan` showed. Deliberately unknown: windows, states, and who asks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

from baremetal.errors import Unknown
from baremetal.failpoints import failpoints
from baremetal.netboot.context import Context, ServerFacts, Urls
from baremetal.netboot.dialect import FILE_NAMES, Manner, install_text
from baremetal.netboot.menu import menu_for
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_answer
from baremetal.netboot.san import San
from baremetal.netboot.templates import Frozen
from baremetal.netboot.tokens import MASKED, Purpose, TokenMint
from baremetal.store.runs import Runs

_KEPT = 512
BY_IPXE = Manner()


@dataclass(frozen=True, slots=True)
class Recipe:
    """The frozen inputs of a run's boot script and answer files. `asked` are the deploy's own variables.

    `volume`: which one it is to make, where its boot target is iscsi (`service/storage/volumes.py`).
    """

    profile: Profile
    media: str
    variables: Mapping[str, Any]
    server: ServerFacts
    templates: Frozen
    asked: Mapping[str, Any] = field(default_factory=dict)
    first_boot: bool = True
    inventory: Mapping[str, Any] = field(default_factory=dict)
    volume: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For the run's record, as JSON."""
        return {
            "profile": asdict(self.profile) | {"family": str(self.profile.family)},
            "media": self.media,
            "variables": dict(self.variables),
            "server": asdict(self.server),
            "templates": self.templates.as_dict() | {"digest": self.templates.digest},
            "asked": dict(self.asked),
            "first_boot": self.first_boot,
            "inventory": dict(self.inventory),
            "volume": dict(self.volume),
        }

    @classmethod
    def from_dict(cls, frozen: Mapping[str, Any]) -> Recipe:
        """Read back from a run's record. Raises Unknown for a run that froze nothing to render."""
        if "profile" not in frozen:
            raise Unknown("this run installs nothing, so there is nothing to render")
        profile = dict(frozen["profile"])
        server = dict(frozen["server"])
        texts = frozen["templates"]
        return cls(
            profile=Profile(**{**profile, "family": Family(profile["family"])}),
            media=frozen["media"],
            variables=frozen["variables"],
            server=ServerFacts(**{**server, "macs": tuple(server["macs"])}),
            templates=Frozen(dict(texts["files"]), dict(texts["texts"]), texts["digest"]),
            asked=frozen["asked"],
            first_boot=frozen["first_boot"],
            inventory=frozen.get("inventory", {}),
            volume=frozen.get("volume", {}),
        )

    def context(self, run: int, base: str, proof_key: str, fetch: str, callback: str) -> Context:
        """Put the recipe, a run and two tokens together into what templates see."""
        # The run stands in the media's URLs too, so that the timeline can say who fetched the kernel; it opens nothing.
        media = f"{media_reference(self.server.name, run)}/{self.media}"
        return Context(
            server=self.server,
            run=run,
            profile=self.profile,
            variables=self.variables,
            urls=Urls.of(base, media, fetch, callback),
            proof_key=proof_key,
            first_boot=self.first_boot,
            inventory=self.inventory,
            volume=self.volume,
        )


K = TypeVar("K")
V = TypeVar("V")


class Shelf(Generic[K, V]):
    """Keeps what was made last, at most `room` of it. For threads."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: K, value: V) -> V:
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return value


class Kitchen:
    """Renders recipes with this installation's keys. `proof_key` is the public half, one line.

    A run's recipe and context never change, so they are parsed and derived once; what is served is rendered every time.
    """

    def __init__(self, mint: TokenMint, proof_key: str) -> None:
        self.mint = mint
        self.proof_key = proof_key
        self._recipes: Shelf[tuple[str, int], Recipe] = Shelf(_KEPT)
        self._contexts: Shelf[tuple[str, int, str], Context] = Shelf(_KEPT)

    def recipe(self, store: Runs, server_id: str, number: int) -> Recipe:
        """Return the recipe of a run. Raises Unknown for a run that is not there, or installs nothing."""
        key = (server_id, number)
        return self._recipes.get(key) or self._recipes.put(
            key, Recipe.from_dict(store.frozen(server_id, number))
        )

    def script(
        self,
        recipe: Recipe,
        server_id: str,
        run: int,
        base: str,
        manner: Manner = BY_IPXE,
        san: San | None = None,
    ) -> str:
        """Render what starts the installer, in the loader's language. Raises Invalid BM203, BM204.

        `san`: the volume that it is to install onto.
        """
        context = self._context(recipe, server_id, run, base)
        if san is not None:
            context = context.with_volume(san)
        return _install(recipe, context, manner)

    def answer(self, recipe: Recipe, server_id: str, run: int, file: str, base: str) -> str:
        """Render one answer file. Raises KeyError for a file that the profile has not, Invalid BM203, BM204."""
        return render_answer(recipe.templates, file, self._context(recipe, server_id, run, base))

    def preview(
        self, recipe: Recipe, run: int, base: str, manner: Manner = BY_IPXE, san: San | None = None
    ) -> list[dict[str, str]]:
        """Render everything with masked tokens: what a person may see. Raises Invalid BM203, BM204."""
        context = recipe.context(run, base, self.proof_key, MASKED, MASKED)
        if san is not None:
            context = context.with_volume(san.masked())
        files = []
        if recipe.profile.has_script:
            files.append({"name": FILE_NAMES[manner.loader], "text": _install(recipe, context, manner)})
        files += [
            {"name": name, "text": render_answer(recipe.templates, name, context)}
            for name in recipe.profile.answer_files
        ]
        return files

    def _context(self, recipe: Recipe, server_id: str, run: int, base: str) -> Context:
        key = (server_id, run, base)
        found = self._contexts.get(key)
        if found is None:
            with failpoints("token.mint"):
                fetch = self.mint.mint(server_id, run, Purpose.FETCH)
                callback = self.mint.mint(server_id, run, Purpose.CALLBACK)
            found = self._contexts.put(key, recipe.context(run, base, self.proof_key, fetch, callback))
        return found


def _install(recipe: Recipe, context: Context, manner: Manner) -> str:
    does = "Boot" if recipe.profile.family is Family.RAMDISK else "Install"
    label = f"{does} {recipe.profile.name} (run {context.run})"
    menu = menu_for(recipe.variables, recipe.server.name, label)
    return install_text(recipe.templates, context, manner, menu)


def media_reference(server: str, run: int) -> str:
    """Name a server and run in a media path. No profile's name begins with an underscore."""
    return f"_{server}.{run}"


def read_media_reference(text: str) -> tuple[str, int] | None:
    """Read such a name back; None for anything else."""
    name, dot, number = text[1:].rpartition(".")
    if not text.startswith("_") or not dot or not number.isascii() or not number.isdigit() or len(number) > 9:
        return None
    return name, int(number)
