"""graphopt's own passes: a plug-in package like anyone else's."""
