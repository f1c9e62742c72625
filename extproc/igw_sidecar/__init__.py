"""The proxy beside a decode engine: has another engine compute the prompt when the picker names one (`igw sidecar`)."""
