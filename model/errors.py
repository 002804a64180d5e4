"""What can go wrong with a router and its files. The messages name the file and say what to do; none holds ticket text."""


class ModelError(Exception):
    """The root of the errors raised in `model`."""


class BundleError(ModelError):
    """A bundle is missing, damaged, of another format, or not safe to open. Nothing of it was used."""


class PolicyError(ModelError):
    """The policy or the taxonomy is not valid."""


class EncoderError(ModelError):
    """A sentence encoder is absent, slow or wrong. No row of it was used; the fast path answers without it."""
