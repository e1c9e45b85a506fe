"""Converting a captured network to a form that the installed TensorRT can build. Torch-free.

Networks are captured in the newest form. On the machine that builds, ``legalize`` replaces layers that its TensorRT lacks by
older ones, rule by rule. A layer that no rule replaces is refused, and the error names the release that has it.
"""
