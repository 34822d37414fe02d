"""What is shown to others: the model card's section and the run as a dataset on the Hub."""
