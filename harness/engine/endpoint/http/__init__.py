"""HTTP below the transport: one attempt of a call, when to repeat it, and which server gets it."""
