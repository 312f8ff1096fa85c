"""The mixture of experts: routing, the SwitchMoE operator and its function bodies."""
