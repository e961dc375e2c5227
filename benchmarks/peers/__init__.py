"""What people would use instead: small programs of the kind one would write, each run by a bench beside ours."""
