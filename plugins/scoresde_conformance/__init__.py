"""The conformance suite: what every component of a kind must do, checked against closed forms.

    scoresde check                       everything that is installed
    scoresde check sdes cosine_vp        one component, with parameters as in 'vp[beta_max=10]'
    scoresde check --dist my_package     one installed package
    pytest --pyargs scoresde_conformance --scoresde-dist my_package

The suite depends on no plugin: its candidates come from a registry, and its ground truth is its own (:mod:`.exact`).
The checks of a kind are the functions of the module with its name.
"""
