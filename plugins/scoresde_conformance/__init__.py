"""The conformance kit: what every component of a kind must do, checked against closed forms.

    scoresde check                       everything that is installed
    scoresde check sdes cosine_vp        one component; parameters go in place, 'vp[beta_max=10]'
    scoresde check --dist my_package     one installed package
    pytest --pyargs scoresde_conformance --scoresde-dist my_package

The kit knows no plugin: its candidates come from a registry, and the truth it holds them against is its own
(:mod:`.exact`). Each kind's checks are the functions of the module of that name.
"""
