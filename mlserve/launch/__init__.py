"""Starting and stopping servers: what runs is described as data first, then run by a launcher."""
