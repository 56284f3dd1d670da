"""What the layers make of the images: representational dissimilarity matrices."""

from lcprune.analysis.representation import Dissimilarities
from lcprune.reporting.page import markup
from lcprune.reporting.page.overview import SPLITS
from lcprune.reporting.page.pictures import matrix_uri
from lcprune.reporting.page.subject import Subject

LOW, HIGH = 0.0, 1.2
"""Correlation distances from dark to light; few lie above."""


def inside(subject: Subject) -> str:
    """A matrix for every layer, or what to do to get them."""
    found = subject.inside
    if found is None:
        return markup.section("inside", "Inside the network", markup.paragraph(subject.inside_absent))
    tiles = "".join(_tile(found, index) for index in range(len(found.layers)))
    words = (
        f"How differently a layer answers to two images: dark is alike, light is different (1 - correlation, from "
        f"{LOW:g} to {HIGH:g} and more). {found.matrices.shape[1]} {SPLITS[found.split]} images, ordered by class: "
        "dark squares on the diagonal are classes that the layer tells apart. Behind the framed layers sits a critic."
    )
    return markup.section("inside", "Inside the network", markup.paragraph(words), f'<ul class="matrices">{tiles}</ul>')


def _tile(found: Dissimilarities, index: int) -> str:
    name = found.layers[index]
    critic = index in found.critic_after
    label = f"Dissimilarity matrix of {name}" + (", which a critic follows" if critic else "")
    uri = matrix_uri(found.matrices[index], LOW, HIGH)
    words = markup.text(name) + (" <b>critic</b>" if critic else "")
    kind = ' class="critic"' if critic else ""
    return f'<li{kind}><img src="{uri}" alt="{markup.text(label)}"><span>{words}</span></li>'
