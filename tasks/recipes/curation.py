"""Recipes for a refresh: complete, frozen, validated configurations. To add a rule: one file, and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from pydantic import Field

from tasks.decontamination.step import Decontamination
from tasks.dedup.config import Deduplication
from tasks.extract import Extraction
from tasks.language import LanguageRule
from tasks.read.records import ReadLimits
from tasks.recipes.overrides import OverrideError, apply_overrides
from tasks.recipes.rules import AnyRule, rule
from tasks.rough_language import RoughLanguage, rough_language
from tasks.rule import Configuration, Rule
from tasks.url_filter import UrlFilter
from tasks.wipe_out import WipeOutGuard

if TYPE_CHECKING:
    from tasks.share_rule import ShareRule


class CurationRecipe(Configuration):
    """Everything that decides which records become documents."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="Part of file names, too")
    reading: ReadLimits = ReadLimits()
    url_filter: UrlFilter = UrlFilter()
    extraction: Extraction = Extraction()
    language: LanguageRule = LanguageRule()
    quality_rules: tuple[AnyRule, ...]
    toxicity_rules: tuple[AnyRule, ...] = Field(default_factory=lambda: (rule("toxicity"), rule("word_list")))
    decontamination: Decontamination = Decontamination()
    guard: WipeOutGuard = WipeOutGuard()
    deduplication: Deduplication = Deduplication()
    num_buckets: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="parts of a version: a power of two, fixed for a corpus; best the root of (documents / 200)",
    )
    shard_records: int = Field(default=128, ge=1, le=100_000, description="records a worker takes at a time")
    shard_bytes: int = Field(default=128 << 20, ge=1 << 20, description="bytes a worker takes at a time, uncompressed")

    def model_post_init(self, context: object) -> None:
        if self.num_buckets & (self.num_buckets - 1):
            raise ValueError(f"num_buckets={self.num_buckets} is no power of two: use 1, 2, 4, 8, 16, ...")
        if any(_share(one) for one in (*self.quality_rules[:-1], *self.toxicity_rules)):
            raise ValueError(
                "a share is kept of what all other rules have left: one rule can have keep_share, and it stands last"
                " among quality_rules"
            )

    @property
    def document_rules(self) -> tuple[Rule, ...]:
        """The quality rules that decide on each document by itself."""
        return tuple(one for one in self.quality_rules if _share(one) is None)

    @property
    def share_rule(self) -> ShareRule | None:
        """The quality rule that keeps a share of what all the others have left, the toxicity rules among them."""
        return next(filter(None, map(_share, self.quality_rules)), None)

    def hide(self, text: str) -> str:
        """A piece of a page as reports and samples may show it: what a rule of the recipe masks is hidden."""
        for one in (*self.quality_rules, *self.toxicity_rules):
            text = one.hide(text)
        return text

    @property
    def rough_language(self) -> RoughLanguage | None:
        """The check of the language before extraction; None where the recipe does without."""
        return rough_language(self.language)


def _share(one: Rule) -> ShareRule | None:
    """The rule, if it keeps a share; told by its field, because the class loads what rules are made of."""
    return cast("ShareRule", one) if getattr(one, "keep_share", None) is not None else None


def fineweb() -> CurationRecipe:
    """FineWeb (Penedo et al. 2024, arXiv:2406.17557): the published pipeline's rules, order and limits.

    Each limit is its rule's default, which cites its source; C4 is without the rule on terminal punctuation (section
    3.5). Ours: extraction, which finds more of the text than trafilatura; the language's threshold, which belongs to
    the model (FineWeb's .65 to lid.176); toxicity. As there, personal data is masked last.
    """
    return CurationRecipe(
        name="fineweb",
        quality_rules=(
            rule("gopher_repetition"),
            rule("gopher_quality"),
            rule("c4_lines"),
            rule("fineweb"),
            rule("personal_data"),
        ),
    )


def fineweb2(languages: tuple[str, ...] = ("en",)) -> CurationRecipe:
    """FineWeb2 (Penedo et al. 2025, arXiv:2506.20920) for one language: `--set language.languages='["de"]'`.

    The published pipeline's rules and order: limits and stop words by language (`languages.json`), nothing of C4, no
    limit on short lines, on repeated paragraphs nor on characters in repeated lines but FineWeb's, which is .1 in place
    of .01; then encoding mended, personal data masked, and lines removed that are what is left of tables.

    How far the limits by language go: the reference is two manuals and a declaration, not web pages. The language's
    score is at its upper bound of .9 in 18 of the 19, line breaks per word differ from English in 2, lines that end
    with punctuation in none; what really differs is word length, the share of words with letters, and the stop words.
    None of the 19 is Chinese, Japanese, Thai or Korean, whose words need tokenizers that are not installed.

    Raises ValueError for several languages, and for one without thresholds.
    """
    from tasks.recipes.languages import frozen_thresholds  # what measures them imports datatrove's filters

    if len(languages) != 1:
        raise ValueError(
            f"fineweb2 has limits for one language at a time, not for {', '.join(languages)}; make a corpus of each"
        )
    limits = frozen_thresholds(languages[0])
    off = 1.0  # a fraction is never above it
    return CurationRecipe(
        name="fineweb2",
        language=LanguageRule(languages=languages, min_score=limits.min_language_score),
        quality_rules=(
            rule(
                "gopher_repetition",
                max_duplicate_paragraph_fraction=off,
                max_duplicate_line_char_fraction=off,
                max_duplicate_paragraph_char_fraction=off,
            ),
            rule("fineweb", **limits.fineweb, max_short_line_fraction=off, max_duplicate_line_char_fraction=0.1),
            rule("gopher_quality", **limits.gopher_quality, stop_words=limits.stop_words),
            rule("ftfy"),
            rule("personal_data"),
            rule("symbol_lines", symbols="|", replacement="\n"),
        ),
    )


def gopher() -> CurationRecipe:
    """MassiveText's rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1), quality before repetition, no others.

    Its pages came through a search engine's filter against adult pages; here the URL filter's lists stand for that. Its
    near-duplicates are those above Jaccard .8.
    """
    return CurationRecipe(
        name="gopher",
        quality_rules=(rule("gopher_quality"), rule("gopher_repetition")),
        toxicity_rules=(),
        deduplication=Deduplication(min_jaccard=0.8),
    )


def dclm() -> CurationRecipe:
    """DCLM-Baseline's heuristics (Li et al. 2024, arXiv:2406.11794, section 4; those of RefinedWeb, arXiv:2306.01116).

    resiliparse extracts, as there, and a classifier of quality keeps the best share of what the heuristics leave. Ours:
    MinHash in place of a Bloom filter for near-duplicates, and after the classifier, not before it; the classifier,
    which has seen some 300 pages where DCLM's saw 400,000 examples. It tells content from the rest of a page, and says
    little of which content people want: so the half that it takes for better stays, and not DCLM's tenth
    (`--set quality.keep_share=0.1` for that).
    """
    return CurationRecipe(
        name="dclm",
        extraction=Extraction(engine="resiliparse"),
        quality_rules=(
            rule("gopher_quality"),
            rule("gopher_repetition"),
            rule("refinedweb_lines"),
            rule("quality", keep_share=0.5),
        ),
        toxicity_rules=(),
    )


def documentation() -> CurationRecipe:
    """FineWeb's rules for technical documentation, which signatures, parameter lists and examples make unlike prose.

    Changed, because FineWeb's values keep 6 % of API documentation and these about half (measured on 300 pages of the
    embedded default): words count punctuation, so code lowers the share of alphabetic ones; short lines such as
    "Returns" repeat; braces are code, not a template left unfilled. Addresses in it are examples, and stay.
    """
    return CurationRecipe(
        name="documentation",
        quality_rules=(
            rule("gopher_repetition"),
            rule("gopher_quality", min_alphabetic_word_fraction=0.6),
            rule("c4_lines", filter_curly_bracket=False),
            rule("fineweb", max_duplicate_line_char_fraction=0.1),
        ),
    )


def smoke() -> CurationRecipe:
    """The least that is a refresh, for tests and first steps: nothing that takes long to load.

    Limits are those of Gopher (arXiv:2112.11446, appendix A.1.1).
    """
    return CurationRecipe(
        name="smoke",
        extraction=Extraction(engine="resiliparse"),
        url_filter=UrlFilter(use_integrated_lists=False),
        quality_rules=(rule("gopher_quality"),),
        toxicity_rules=(),
        num_buckets=4,
    )


CURATION_RECIPES: Mapping[str, Callable[[], CurationRecipe]] = {
    make.__name__: make for make in (fineweb, fineweb2, dclm, gopher, documentation, smoke)
}


def check_rules(recipe: CurationRecipe) -> None:
    """What only loading a rule can show (a missing model file, an unknown language), before hours of reading.

    Raises ValueError, also where a rule's settings are for another language. Rules at their defaults are known to load.
    """
    from tasks.words import tokenizer_of  # datatrove's tokenizers take a second to import

    recipe.decontamination.coverage()
    rules = (*recipe.quality_rules, *recipe.toxicity_rules, recipe.decontamination)
    for one in (recipe.url_filter, recipe.language, *rules):
        for file in one.files():
            if not file.is_file():
                raise ValueError(f"{type(one).__name__} needs the file {file}, which is not there; give its whole path")
        if one.model_fields_set - {"kind"} and not isinstance(one, UrlFilter):
            share = _share(one)
            (one if share is None else share.scoring()).build()
    if any("datatrove" in one.libraries for one in (*recipe.quality_rules, *recipe.toxicity_rules)):
        for language in recipe.language.languages:
            tokenizer_of(language)
    for one in (*recipe.quality_rules, *recipe.toxicity_rules):
        one.check_languages(recipe.language.languages)


def resolve_curation_recipe(name: str, overrides: Mapping[str, str]) -> CurationRecipe:
    """The recipe called `name` with `overrides` (`gopher_quality.min_words=30`) applied.

    `fineweb2` is made for the language that the overrides ask for. Raises ValueError for an unknown recipe, key or
    value, in one line.
    """
    if name not in CURATION_RECIPES:
        raise ValueError(f"there is no curation recipe {name!r}; there are {', '.join(CURATION_RECIPES)}")
    try:
        recipe = CURATION_RECIPES[name]()
        if name == "fineweb2":
            asked = {key: text for key, text in overrides.items() if key.split(".")[0] == "language"}
            recipe = fineweb2(apply_overrides(CurationRecipe(name=name, quality_rules=()), asked).language.languages)
        return apply_overrides(recipe, overrides)
    except OverrideError as error:
        raise OverrideError(f"recipe {name}: {error}") from error
