"""Code generation: a prompt becomes a commit that its project's tests have judged."""
