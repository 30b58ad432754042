"""The runs that every method begins with, and what the SAEs say of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.circuits.encoded import Encoded
from sae_lens_ext.circuits.freezing import Freeze, Freezing
from sae_lens_ext.circuits.measurement import Measurement, Metric
from sae_lens_ext.circuits.nodes import SiteEffects, site_effects
from sae_lens_ext.circuits.prompts import Prompts
from sae_lens_ext.circuits.runs import Recording, gradient_run, recorded_run
from sae_lens_ext.circuits.setting import Setting
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import Host, Site, host_for
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import Placement, SAEs, check_order, placements


@dataclass(frozen=True, eq=False)
class Runs:
    """The clean and the corrupted run, and what each SAE says of them.

    Attributes:
        clean: the clean run.
        corrupted: the corrupted run, or None.
        clean_codes: by the name of the site.
        corrupted_codes: by the name of the site; None at each without a corrupted run.
    """

    clean: Recording
    corrupted: Recording | None
    clean_codes: Mapping[str, Encoded]
    corrupted_codes: Mapping[str, Encoded | None]

    @property
    def metric_corrupted(self) -> Float[Tensor, "*rows"] | None:
        """The metric of the corrupted run; None without one."""
        return None if self.corrupted is None else self.corrupted.values


@dataclass(frozen=True, eq=False)
class Analysis:
    """A model, the SAEs in it, the rows to run, and the metric of their runs.

    Attributes:
        host: the model.
        placed: the SAEs and their sites, by name of the site.
        prompts: the rows.
        masks: where nodes of each site are looked at, by position of the text.
        measurement: the metric.
        freezing: what is held at its values in the clean run.
        ks: the largest k at each site; None for every active feature.
        extrapolate: whether k may exceed the k that an SAE was trained at.
        setting: what was passed, for later analyses of the same.
        embedding: where the embeddings of tokens are, if those are nodes as well.
    """

    host: Host
    placed: Mapping[str, Placement]
    prompts: Prompts
    masks: Mapping[str, Bool[Tensor, "batch pos"]]
    measurement: Measurement
    freezing: Freezing
    ks: Mapping[str, int | None]
    extrapolate: bool
    setting: Setting
    embedding: Site | None = None

    @classmethod
    def of(
        cls,
        model: Any,
        saes: SAEs,
        clean: Any,
        corrupted: Any,
        *,
        metric: Metric,
        k: int | Mapping[str, int | None] | None,
        positions: Positions,
        freeze: tuple[Freeze, ...] = (),
        extrapolate: bool = False,
    ) -> "Analysis":
        """An analysis of what a user passes, as in ``effects``.

        Args:
            model: a model of any host.
            saes: the SAEs.
            clean: tokens in any form.
            corrupted: tokens in any form, or None.
            metric: the metric.
            k: for every site, or by the name of each.
            positions: whose nodes to look at.
            freeze: what to hold at its values in the clean run.
            extrapolate: whether k may exceed the k that an SAE was trained at.
        """
        host = host_for(model).plain()
        placed = placements(host, saes)
        ks = {}
        for name, place in placed.items():
            assert place.sae is not None
            site_k = k[name] if isinstance(k, Mapping) else k
            ks[name] = place.sae.config.checked_k(site_k, extrapolate=extrapolate)
        prompts = Prompts.of(host, clean, corrupted)
        return cls(
            host,
            placed,
            prompts,
            prompts.masks(host, placed, positions),
            Measurement(host, metric, prompts),
            Freezing(host, freeze),
            ks,
            extrapolate,
            Setting.of(placed, prompts, positions),
        )

    def with_saes(self, saes: SAEs, k: Mapping[str, int | None]) -> "Analysis":
        """The same rows and metric with other SAEs.

        Args:
            saes: SAEs for the same sites.
            k: the k at each site.

        Raises:
            InvalidArgument: SAEs for other sites.
        """
        placed = placements(self.host, saes)
        if set(placed) != set(self.placed):
            raise InvalidArgument(
                f"other SAEs must be for the same sites, {', '.join(self.placed)}; "
                f"these are for {', '.join(placed)}"
            )
        positions = self.setting.positions
        ks = {}
        for name, place in placed.items():
            assert place.sae is not None
            ks[name] = place.sae.config.checked_k(k[name], extrapolate=True)
        return replace(
            self,
            placed=placed,
            masks=self.prompts.masks(self.host, placed, positions),
            ks=ks,
            extrapolate=True,
            setting=Setting.of(placed, self.prompts, positions),
        )

    @property
    def sites(self) -> list[Site]:
        """Where SAEs read and write, and the embedding."""
        sites = [site for place in self.placed.values() for site in place.sites]
        return sites if self.embedding is None else [self.embedding, *sites]

    def runs(self, *, with_gradients: bool) -> Runs:
        """Run the clean rows, whose frozen values later runs keep, and the corrupted.

        Nothing is frozen in the corrupted run: nodes have the values there that the
        model computes.

        Raises:
            UnknownSite: a transcoder writes before it has read.
            UnsupportedHost: something is not linear with what is frozen.
        """
        clean_run = gradient_run if with_gradients else recorded_run
        clean = clean_run(
            self.host,
            self.prompts.clean,
            self.sites,
            self.measurement,
            during=self.freezing.recording(len(self.prompts.clean)),
        )
        self.freezing.check_linear(self.prompts.clean)
        check_order(self.placed.values(), clean.activations)
        clean_codes = self._encoded(clean)
        if self.prompts.corrupted is None:
            return Runs(clean, None, clean_codes, dict.fromkeys(self.placed))

        corrupted = recorded_run(
            self.host, self.prompts.corrupted, self.sites, self.measurement
        )
        return Runs(clean, corrupted, clean_codes, self._encoded(corrupted))

    def _encoded(self, run: Recording) -> dict[str, Encoded]:
        return {
            name: Encoded.of(
                place,
                run.activations,
                self.masks[name],
                self.ks[name],
                extrapolate=self.extrapolate,
            )
            for name, place in self.placed.items()
        }

    def effects_at(
        self,
        name: str,
        runs: Runs,
        gradient: Float[Tensor, "batch pos d_out"],
    ) -> SiteEffects:
        """Effects at one site from the gradient there."""
        sae = self.placed[name].sae
        assert sae is not None
        return site_effects(
            sae,
            self.masks[name],
            runs.clean_codes[name],
            runs.corrupted_codes[name],
            gradient,
            is_whole=self.ks[name] is None,
        )
