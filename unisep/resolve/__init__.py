"""From a request and what is installed to who answers: pure, and home of every "which one?" error."""

from unisep.resolve.catalogue import BackendOffer, Catalogue, EncoderOffer, Extra, Offer, catalogue, rank
from unisep.resolve.route import Request, Route, Task, Want
from unisep.resolve.routing import default_backend, resolve
from unisep.resolve.stems import STEMS_BY_QUERY

__all__ = [
    "STEMS_BY_QUERY",
    "BackendOffer",
    "Catalogue",
    "EncoderOffer",
    "Extra",
    "Offer",
    "Request",
    "Route",
    "Task",
    "Want",
    "catalogue",
    "default_backend",
    "rank",
    "resolve",
]
