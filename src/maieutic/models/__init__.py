"""Models that can speak: `load(spec)` turns a MODEL into a `ChatModel`.

    hf/PATH_OR_ID            in this process, batched (needs the `train` extra)
    openai/NAME              any OpenAI-compatible server, by OPENAI_BASE_URL and OPENAI_API_KEY
    http://HOST:PORT/v1#NAME the same, by address; its key is MAIEUTIC_API_KEY, sent beyond this
                             machine only to the host in MAIEUTIC_API_HOST
    ollama/NAME              a local Ollama server
    script/FILE              canned replies, for tests and dry runs
    baseline/NAME            a tutor of fixed texts: tutors that must not win, and controls
    student/NAME_OR_FILE     a scripted student: phrases and probabilities from a file

Every request is asynchronous, so that thousands of dialogues advance independently; a local model decodes the
requests that wait together in batches.
"""

from maieutic.models.chat_model import ChatModel, identity, with_problem
from maieutic.models.loading import check, load, load_all

__all__ = ["ChatModel", "check", "identity", "load", "load_all", "with_problem"]
