"""The processes of one launch: they join, meet, and end together if one fails."""
