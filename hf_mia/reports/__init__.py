"""What scores tell: estimates with intervals, privacy bounds, figures. numpy and scipy only."""
