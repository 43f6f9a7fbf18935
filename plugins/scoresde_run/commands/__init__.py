"""The commands ``train``, ``sample`` and ``presets``, and the options that commands share."""
