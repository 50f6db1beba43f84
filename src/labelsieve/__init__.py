"""From a folder of noisily labeled images to verdicts, clean labels and robust models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labelsieve.auditing.audit import Audit, audit, recipe
    from labelsieve.clustering.cluster import cluster, cluster_recipe
    from labelsieve.data.augment import (
        Contrastive,
        Normalization,
        Weak,
        clean_view,
        contrastive_view,
        weak_view,
    )
    from labelsieve.data.draws import Draws, Stream
    from labelsieve.data.mixing import mixup
    from labelsieve.data.noise import (
        asymmetric,
        independent,
        small_cluster,
        symmetric,
        transition,
    )
    from labelsieve.data.read import read
    from labelsieve.data.strong import Strong, strong_view
    from labelsieve.data.tags.read import read_tags
    from labelsieve.data.tags.write import write_tags
    from labelsieve.features.backbones import network
    from labelsieve.features.bank import MemoryBank
    from labelsieve.features.dictionary import Dictionary
    from labelsieve.features.extract import extract, load_features
    from labelsieve.features.objectives import (
        guided_contrastive,
        info_nce_queue,
        interpolated_contrastive,
        n_pairs,
        n_pairs_mixed,
        nt_xent,
        supervised_contrastive,
    )
    from labelsieve.features.pretrain import Pretrain
    from labelsieve.features.recipes import PRETRAINING
    from labelsieve.features.saved import load_network
    from labelsieve.features.shown import image_views, row_views
    from labelsieve.features.views import view_rows
    from labelsieve.methods.prism.adapters import CleanMiner, CleanTripletsMiner, FilteredLoss
    from labelsieve.methods.prism.centers import average_similarity, clean_log_probability
    from labelsieve.methods.prism.detect import PrismDetection
    from labelsieve.methods.prism.embedding import Embed, embed, train_embedding
    from labelsieve.methods.prism.filter import CleanFilter, Filter
    from labelsieve.methods.prism.losses import contrastive_loss, soft_triple_loss
    from labelsieve.methods.prism.objectives import Pairs, Proxies
    from labelsieve.methods.prism.offline import Offline, estimate_noise_rate, score_offline
    from labelsieve.methods.prism.two_stage import second_stage
    from labelsieve.methods.scan.heads import HeadTraining, row_probabilities, train_heads
    from labelsieve.methods.scan.kmeans import kmeans
    from labelsieve.methods.scan.losses import (
        confident,
        most_confident,
        scan_loss,
        self_label_loss,
        validation_loss,
    )
    from labelsieve.methods.scan.network import ScanTraining, train_scan
    from labelsieve.methods.scan.number import number_of_classes
    from labelsieve.methods.scan.prior import class_shares
    from labelsieve.methods.scan.recipes import Cluster
    from labelsieve.methods.scan.self_labels import SelfLabels, train_self_labels
    from labelsieve.methods.scan.temi import temi_loss
    from labelsieve.methods.sncf.beliefs import Beliefs
    from labelsieve.methods.sncf.classify import Classify, train_classifier
    from labelsieve.methods.sncf.dividemix import DivideMix
    from labelsieve.methods.sncf.guesses import label_guess, sharpened_guess, soft_targets
    from labelsieve.methods.sncf.losses import elr_penalty, generalized_cross_entropy
    from labelsieve.methods.sncf.modes import low_mode, pseudo_loss_weights
    from labelsieve.methods.sncf.paper import PaperDetection
    from labelsieve.methods.sncf.paper_training import Paper
    from labelsieve.methods.sncf.plain_training import Plain
    from labelsieve.methods.sncf.robust import RobustDetection
    from labelsieve.methods.sncf.robust_training import Robust
    from labelsieve.methods.veit.losses import (
        cleaning_loss,
        clip_straight_through,
        relevance_probability,
        sparse_cross_entropy,
    )
    from labelsieve.methods.veit.network import GateCleaner, LabelCleaner, Tagger
    from labelsieve.methods.veit.targets import pair_targets
    from labelsieve.methods.veit.thresholds import Keep, tag_thresholds
    from labelsieve.methods.veit.training import VeitTraining, train_tagger
    from labelsieve.methods.veit.verify import suggest
    from labelsieve.neighbors.duplicates import exact_duplicates, near_duplicates
    from labelsieve.neighbors.graph import spectral_embedding
    from labelsieve.neighbors.knn import nearest_neighbors
    from labelsieve.neighbors.optics import optics
    from labelsieve.prediction import predict
    from labelsieve.records import Features, Findings, ImageSet, Neighbors, NoiseRate, Verdict
    from labelsieve.records.clusters import Clusters, Part
    from labelsieve.records.predictions import Predictions
    from labelsieve.records.tag_findings import Tagged, TagVerdict
    from labelsieve.records.tag_set import TagSet
    from labelsieve.records.tagged_images import TaggedImages
    from labelsieve.report.classifier_scores import score_classifier
    from labelsieve.report.cluster_page import write_cluster_page
    from labelsieve.report.cluster_scores import hungarian, score_clusters
    from labelsieve.report.metrics import score
    from labelsieve.report.page import write_page
    from labelsieve.report.retrieval_metrics import RetrievalScores, score_retrieval
    from labelsieve.report.tag_metrics import TagScores, score_tags
    from labelsieve.report.tag_reliability import false_positive_share
    from labelsieve.retrieval.model import EmbeddingModel
    from labelsieve.retrieval.retrieve import retrieve
    from labelsieve.retrieval.settings import Retrieve, retrieve_recipe
    from labelsieve.stages.representation import represent
    from labelsieve.tagging.model import TagModel
    from labelsieve.tagging.settings import Tag, tagging_recipe
    from labelsieve.tagging.tag import tag
    from labelsieve.training.model import Model
    from labelsieve.training.settings import Train, train_recipe
    from labelsieve.training.train import train

# Where each public name lives, once more: torch and scikit-learn cost seconds to import, so that a
# module is imported when the first of its names is asked for.
_HOMES = {
    "auditing.audit": ("Audit", "audit", "recipe"),
    "clustering.cluster": ("cluster", "cluster_recipe"),
    "records.clusters": ("Clusters", "Part"),
    "training.train": ("train",),
    "training.settings": ("Train", "train_recipe"),
    "training.model": ("Model",),
    "records.predictions": ("Predictions",),
    "data.augment": (
        "Contrastive", "Normalization", "Weak", "clean_view", "contrastive_view", "weak_view",
    ),
    "data.draws": ("Draws", "Stream"),
    "data.mixing": ("mixup",),
    "data.noise": ("asymmetric", "independent", "small_cluster", "symmetric", "transition"),
    "data.read": ("read",),
    "data.strong": ("Strong", "strong_view"),
    "data.tags.read": ("read_tags",),
    "data.tags.write": ("write_tags",),
    "features.backbones": ("network",),
    "features.bank": ("MemoryBank",),
    "features.dictionary": ("Dictionary",),
    "features.extract": ("extract", "load_features"),
    "features.objectives": (
        "guided_contrastive", "info_nce_queue", "interpolated_contrastive", "n_pairs",
        "n_pairs_mixed", "nt_xent", "supervised_contrastive",
    ),
    "features.pretrain": ("Pretrain",),
    "features.recipes": ("PRETRAINING",),
    "features.saved": ("load_network",),
    "features.shown": ("image_views", "row_views"),
    "features.views": ("view_rows",),
    "methods.prism.adapters": ("CleanMiner", "CleanTripletsMiner", "FilteredLoss"),
    "methods.prism.centers": ("average_similarity", "clean_log_probability"),
    "methods.prism.detect": ("PrismDetection",),
    "methods.prism.embedding": ("Embed", "embed", "train_embedding"),
    "methods.prism.filter": ("CleanFilter", "Filter"),
    "methods.prism.losses": ("contrastive_loss", "soft_triple_loss"),
    "methods.prism.objectives": ("Pairs", "Proxies"),
    "methods.prism.offline": ("Offline", "estimate_noise_rate", "score_offline"),
    "methods.prism.two_stage": ("second_stage",),
    "methods.scan.heads": ("HeadTraining", "row_probabilities", "train_heads"),
    "methods.scan.kmeans": ("kmeans",),
    "methods.scan.losses": (
        "confident", "most_confident", "scan_loss", "self_label_loss", "validation_loss",
    ),
    "methods.scan.network": ("ScanTraining", "train_scan"),
    "methods.scan.number": ("number_of_classes",),
    "methods.scan.prior": ("class_shares",),
    "methods.scan.recipes": ("Cluster",),
    "methods.scan.self_labels": ("SelfLabels", "train_self_labels"),
    "methods.scan.temi": ("temi_loss",),
    "methods.sncf.beliefs": ("Beliefs",),
    "methods.sncf.classify": ("Classify", "train_classifier"),
    "methods.sncf.dividemix": ("DivideMix",),
    "methods.sncf.guesses": ("label_guess", "sharpened_guess", "soft_targets"),
    "methods.sncf.losses": ("elr_penalty", "generalized_cross_entropy"),
    "methods.sncf.modes": ("low_mode", "pseudo_loss_weights"),
    "methods.sncf.paper": ("PaperDetection",),
    "methods.sncf.paper_training": ("Paper",),
    "methods.sncf.plain_training": ("Plain",),
    "methods.sncf.robust": ("RobustDetection",),
    "methods.sncf.robust_training": ("Robust",),
    "methods.veit.losses": (
        "cleaning_loss", "clip_straight_through", "relevance_probability", "sparse_cross_entropy",
    ),
    "methods.veit.network": ("GateCleaner", "LabelCleaner", "Tagger"),
    "methods.veit.targets": ("pair_targets",),
    "methods.veit.thresholds": ("Keep", "tag_thresholds"),
    "methods.veit.training": ("VeitTraining", "train_tagger"),
    "methods.veit.verify": ("suggest",),
    "neighbors.duplicates": ("exact_duplicates", "near_duplicates"),
    "neighbors.graph": ("spectral_embedding",),
    "neighbors.knn": ("nearest_neighbors",),
    "neighbors.optics": ("optics",),
    "prediction": ("predict",),
    "records": ("Features", "Findings", "ImageSet", "Neighbors", "NoiseRate", "Verdict"),
    "report.classifier_scores": ("score_classifier",),
    "report.cluster_page": ("write_cluster_page",),
    "report.cluster_scores": ("hungarian", "score_clusters"),
    "report.metrics": ("score",),
    "report.page": ("write_page",),
    "report.retrieval_metrics": ("RetrievalScores", "score_retrieval"),
    "report.tag_metrics": ("TagScores", "score_tags"),
    "report.tag_reliability": ("false_positive_share",),
    "stages.representation": ("represent",),
    "retrieval.model": ("EmbeddingModel",),
    "retrieval.retrieve": ("retrieve",),
    "retrieval.settings": ("Retrieve", "retrieve_recipe"),
    "records.tag_findings": ("TagVerdict", "Tagged"),
    "records.tag_set": ("TagSet",),
    "records.tagged_images": ("TaggedImages",),
    "tagging.model": ("TagModel",),
    "tagging.settings": ("Tag", "tagging_recipe"),
    "tagging.tag": ("tag",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
