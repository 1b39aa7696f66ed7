"""The card of a classifier: what people have to know before they let it decide."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.classifiers.bundle import Classifier
from tasks.classifiers.labelled import Gathered
from tasks.classifiers.measured import Measured, slices_page
from tasks.classifiers.search import Trial
from tasks.classifiers.threshold import Threshold
from tasks.markdown import markdown_cell, markdown_facts, markdown_table


def card(
    classifier: Classifier,
    measured: Measured,
    chosen_at: Threshold,
    gathered: Gathered,
    parts_sizes: Mapping[str, int],
    trial: Trial,
) -> str:
    """The card in Markdown. `chosen_at` is the threshold on the background that it was chosen on."""
    report, scores = measured.report, classifier.scores
    sections = [
        f"# {markdown_cell(classifier.name)}",
        markdown_cell(classifier.task),
        _use(classifier),
        "## Data",
        markdown_table(
            ["source", "texts", "licence", "origin", "SHA-256"],
            [(each.name, each.num_texts, each.licence, each.origin, each.sha256) for each in classifier.data],
        ),
        markdown_table(["part", "texts"], list(parts_sizes.items())),
        f"Of the labelled rows, {gathered.num_repeated:,} repeat another one's words, {gathered.num_empty:,} have none,"
        f" and {gathered.num_contradicting:,} distinct texts have both labels; these are left out. Texts that resemble"
        " each other are in one part.",
        "## Training",
        markdown_facts(
            {
                "fastText": ", ".join(f"{name} {value}" for name, value in classifier.training.model_dump().items()),
                "rarer class repeated to a share of": trial.settings.minority_ratio,
                "trial": f"{trial.number}, average precision {trial.score.average_precision:.4f} on the validation part"
                " with the background",
                "calibration": f"sigmoid of {classifier.calibration.slope:.4f} times the score's logit"
                f" {classifier.calibration.intercept:+.4f}, fitted on the validation part",
                "quantised": f"{scores['size_bytes']:,.0f} bytes, {scores['size_bytes_before']:,.0f} before;"
                f" average precision on single texts of the test part {scores['average_precision_quantised']:.4f},"
                f" {scores['average_precision_before']:.4f} before",
            }
        ),
        "## Figures on the test part",
        "With 95 % intervals. This training chose nothing by these texts; whether people did who looked at such figures"
        " before, it cannot know.",
        markdown_facts(
            {
                "threshold": f"{classifier.threshold:.6g}, chosen for at most"
                f" {classifier.false_alarm_fraction:.2%} of ordinary documents with a margin",
                "on the documents that it was chosen on": str(chosen_at),
                "false alarms on other ordinary documents": str(measured.background),
                "recall": str(report.recall),
                "precision": "nothing is flagged" if report.precision is None else str(report.precision),
                "false alarms on labelled negative texts": str(report.false_alarms),
                "ROC AUC": str(report.roc_auc),
                "average precision": str(report.average_precision),
                "expected calibration error": f"{report.expected_calibration_error:.4f}",
            }
        ),
        slices_page(measured).rstrip(),
        "## Limits",
        _limits(classifier),
    ]
    return "\n\n".join(sections) + "\n"


def _use(classifier: Classifier) -> str:
    unit = "whole documents" if classifier.unit == "document" else "pieces of documents (lines or sentences)"
    aggregation = (
        f" A document's score is made of its pieces' by `{markdown_cell(classifier.aggregation)}`."
        if classifier.aggregation
        else ""
    )
    languages = ", ".join(classifier.languages)
    return (
        f"A fastText model that reads {unit} in {markdown_cell(languages)}, and gives the probability of"
        f" “{markdown_cell(classifier.positive)}”.{aggregation} Licence: {markdown_cell(classifier.licence)}. Origin:"
        f" {markdown_cell(classifier.origin)}."
    )


def _limits(classifier: Classifier) -> str:
    return (
        "- It knows words and letters, not meaning: what is quoted, denied or meant otherwise counts as what it looks"
        " like.\n"
        f"- It has read {markdown_cell(', '.join(classifier.languages))} only, of the kinds of text above. On others"
        " neither the threshold nor the figures hold.\n"
        "- The scores are probabilities among texts like those that were labelled. Where fewer are positive, fewer of"
        " those with one score are.\n"
        "- The threshold belongs to this model; another model needs its own."
    )
