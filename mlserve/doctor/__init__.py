"""What `mlserve doctor` looks at: each module is one area, and gives findings."""
