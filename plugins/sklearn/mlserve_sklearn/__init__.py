"""The scikit-learn backend of mlserve."""
