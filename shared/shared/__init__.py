"""The contract between the rooms: wire types, errors, clients, and the base every service stands on."""
