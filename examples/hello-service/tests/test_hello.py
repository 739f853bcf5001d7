import unittest

from hello import greeting


class Greeting(unittest.TestCase):
    def test_a_name_is_greeted(self) -> None:
        self.assertEqual(greeting("Ada"), "Hello, Ada!")


if __name__ == "__main__":
    unittest.main()
