"""How runs start and are told of: receiver, inbox, dispatcher, announcer, and the system itself."""
