"""The command line. Commands only wire: ``*_format`` modules make what is shown, :mod:`.output` shows it."""
