"""Whoever runs the chain of three hops: choreo, a bare loop on the same gate, and other frameworks.

Each module has the same things, by which :mod:`benchmarks.member` and :mod:`benchmarks.race` drive it:

* ``INSTALLED``: whether what it needs is there;
* ``prepare(server)``: make groups and what else must be there before anything is published;
* ``commands(first, count)``: what publishes the first events of ``count`` sagas from number ``first`` on
  (or ``publish(server, first, count)``, where that takes more than commands);
* ``end_streams()``: the streams into which the last events go;
* ``serve(url, roles)``: run participants until cancelled (a coroutine), or until the process ends.
"""
