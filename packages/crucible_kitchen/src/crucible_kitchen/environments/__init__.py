"""What a policy is trained in: each module makes the groups of one kind of problem."""
