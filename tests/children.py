"""Child processes of a fork server."""

import contextlib
import multiprocessing


def start(target, *arguments, folder) -> multiprocessing.Process:
    """Start a child of a server that has imported everything, so that most of its life is work.

    The first child starts the server, in ``folder``, because a server finds modules in the folder that it starts in: in
    a checkout these would be others than those that are installed and tested.
    """
    child = multiprocessing.get_context("forkserver").Process(target=target, args=arguments)
    with contextlib.chdir(folder):
        child.start()
    return child
