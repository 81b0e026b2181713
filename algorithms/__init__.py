"""The library of algorithms: estimators with scikit-learn's conventions, one family per file."""
