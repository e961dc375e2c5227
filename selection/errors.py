"""Why no model can be chosen. Every message is one sentence for whoever submitted the job or set the environment."""


class CannotSelect(ValueError):
    """No model can be chosen for the job as it stands."""


class UnknownModel(CannotSelect):
    """A model was named that the registry does not have, or that is of the wrong kind."""


class ModelNotAllowed(CannotSelect):
    """A model was asked for that `LLM_MODEL_ALLOWED` or the list of the job's API does not name."""


class UnknownStrategy(CannotSelect):
    """A strategy was named that there is not."""


class NothingFits(CannotSelect):
    """No candidate can hold the job's prompt and its answer."""
