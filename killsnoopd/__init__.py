"""killsnoopd: who sent that signal, and what died of it?"""

__version__ = "0.1.0"
