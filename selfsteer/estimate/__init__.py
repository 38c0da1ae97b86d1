"""What a recipe will cost: parameters, arithmetic, memory, time and disk, before anything is computed."""
