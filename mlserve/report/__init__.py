"""What the reports of `compare`, `bench` and `certify` share: one HTML page, its plots and bars."""
