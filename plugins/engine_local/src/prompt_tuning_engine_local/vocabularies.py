"""The vocabulary under the name that gin files have for it; the core reads it."""

from __future__ import annotations

from prompt_tuning_files.vocabularies import SentencePieceVocabulary

__all__ = ["SentencePieceVocabulary"]
